"""The triggers of revision 2026_11_23 on Postgres.

Three stages for a row of prompt_templates: ``check`` refuses, ``number`` settles the version and
who did it, ``record`` writes the version, the event and the notification. The last comes after
the row, since an INSERT ... ON CONFLICT runs the first two for a row that is never inserted.

The functions run with the rights of their owner: an editor needs no more than UPDATE on
prompt_templates, and cannot touch the record.
"""

from collections.abc import Sequence
from typing import Final

from onbook.adapters.database.migrations.book_rules import (
    NAME_SENTENCE,
    RULES,
    TOO_HIGH,
    Rule,
    filled,
    quoted,
)

_FUNCTION: Final = """
CREATE FUNCTION <name>() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = <schema>, pg_temp AS $function$<body>$function$
"""

# Every writer takes the epoch before any row, so that two never wait for each other, that epochs
# and events are in the order of commits (an event draws its position after this), and that whoever
# reads the highest version may add one.
_LOCK_EPOCH: Final = """
BEGIN
    PERFORM FROM template_epoch FOR UPDATE;
    RETURN NULL;
END
"""

# One number for all changes of a transaction, since they are seen together. Each update of the one
# row would leave another dead one that the next has to step over. A savepoint has a transaction
# id of its own and only counts once more.
_NEXT_EPOCH: Final = """
CREATE FUNCTION onbook_next_epoch() RETURNS bigint LANGUAGE plpgsql
SET search_path = <schema>, pg_temp AS $function$
DECLARE
    counted bigint;
BEGIN
    UPDATE template_epoch SET epoch = epoch + 1
        WHERE xmin::text::bigint <> txid_current() % 4294967296
        RETURNING epoch INTO counted;
    IF NOT FOUND THEN
        SELECT epoch INTO counted FROM template_epoch;
    END IF;
    RETURN counted;
END
$function$
"""

_REFUSE: Final = """
BEGIN
    RAISE check_violation USING MESSAGE = TG_ARGV[0];
END
"""

_CHECK: Final = """
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.version < OLD.version THEN
            RAISE check_violation USING MESSAGE = <version_down>;
        ELSIF NEW.template_name <> OLD.template_name OR NEW.id <> OLD.id THEN
            RAISE check_violation USING MESSAGE = <renamed>;
        ELSIF NEW.changed_epoch <> OLD.changed_epoch THEN
            RAISE check_violation USING MESSAGE = <epoch_set>;
        END IF;
    END IF;
    <rules>
    IF NEW.is_active AND EXISTS (
        SELECT FROM prompt_templates other
        WHERE other.is_active AND other.template_name <> NEW.template_name
            AND other.model_type = NEW.model_type AND other.use_case = NEW.use_case
            AND other.content_mode = NEW.content_mode
            AND coalesce(other.target, '') = coalesce(NEW.target, '')
    ) THEN
        RAISE unique_violation
            USING MESSAGE = <key_taken>, CONSTRAINT = 'uq_prompt_templates_active_key';
    END IF;
    RETURN NEW;
END
"""

# OLD is a row of NULLs where there is none.
_RULE: Final = """
    IF NEW.<column> IS DISTINCT FROM OLD.<column> AND <broken> THEN
        RAISE check_violation USING MESSAGE = <sentence>, COLUMN = '<column>';
    END IF;
"""

_NUMBER: Final = """
DECLARE
    changed boolean := TG_OP = 'INSERT' OR (<new>) IS DISTINCT FROM (<old>);
    numbered boolean := changed OR NEW.version <> OLD.version;
    matters boolean := numbered OR NEW.is_active <> OLD.is_active;
    asked integer := NEW.version;
    raw boolean := true;
    newest record;
    ours text;
    actor text := 'sql:' || session_user;
    highest integer;
    there boolean;
    equal boolean;
    kept boolean;
BEGIN
    IF matters AND NEW.event_id IS DISTINCT FROM OLD.event_id THEN
        SELECT event_id, action, to_version INTO newest FROM template_events
            WHERE template_name = NEW.template_name ORDER BY position DESC LIMIT 1;
        IF newest.event_id = NEW.event_id THEN
            ours := newest.event_id;
        END IF;
    END IF;
    IF numbered THEN
        -- With the numbers of discarded drafts, which another text never gets.
        SELECT max(given.version) INTO highest FROM (
            SELECT version FROM prompt_template_versions
            WHERE template_name = NEW.template_name
            UNION ALL
            SELECT to_version FROM template_events
            WHERE template_name = NEW.template_name AND event_id IS DISTINCT FROM ours
        ) given;
        SELECT (<recorded>) IS NOT DISTINCT FROM (<new>) INTO equal
            FROM prompt_template_versions
            WHERE template_name = NEW.template_name AND version = NEW.version;
        there := equal IS NOT NULL;
        IF TG_OP = 'UPDATE' THEN
            kept := NEW.version > OLD.version AND CASE WHEN there THEN equal ELSE NOT EXISTS (
                SELECT FROM template_events event
                WHERE event.template_name = NEW.template_name AND event.to_version = NEW.version
                    AND event.event_id IS DISTINCT FROM ours
            ) END;
        ELSE
            kept := NEW.version > coalesce(highest, 0) OR there AND equal;
        END IF;
        IF NOT kept THEN
            NEW.version := greatest(highest, OLD.version) + 1;
        END IF;
    END IF;

    IF matters THEN
        NEW.changed_epoch := onbook_next_epoch();
        IF ours IS NOT NULL AND NEW.version = asked THEN
            -- It says what a raw write's event would.
            raw := newest.to_version IS DISTINCT FROM
                    CASE WHEN NOT coalesce(OLD.is_active, false) OR NEW.is_active THEN asked END
                OR NEW.is_active AND newest.action NOT IN <live_actions>;
        END IF;
        IF raw THEN
            NEW.event_id := gen_random_uuid();
            IF NEW.updated_by IS NULL OR NEW.updated_by IS NOT DISTINCT FROM OLD.updated_by THEN
                NEW.updated_by := actor;
            END IF;
            IF NEW.change_reason IS NOT DISTINCT FROM OLD.change_reason THEN
                NEW.change_reason := NULL;
            END IF;
            IF changed THEN
                NEW.content_sha256 := NULL;
            END IF;
        END IF;
    END IF;

    IF TG_OP = 'UPDATE' AND NEW.updated_at = OLD.updated_at
        AND (matters OR NEW.content_sha256 IS NOT DISTINCT FROM OLD.content_sha256) THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
"""

_RECORD: Final = """
DECLARE
    explained boolean := EXISTS (
        SELECT FROM template_events event
        WHERE event.event_id = NEW.event_id AND event.template_name = NEW.template_name
    );
    actor text := 'sql:' || session_user;
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.version, NEW.is_active) = (OLD.version, OLD.is_active) THEN
        RETURN NULL;
    END IF;

    IF TG_OP = 'INSERT' OR NEW.version <> OLD.version THEN
        INSERT INTO prompt_template_versions (
            template_name, version, <recorded>,
            author, reason, created_at, content_sha256, base_version
        )
        SELECT
            NEW.template_name, NEW.version, <new>,
            coalesce(NEW.updated_by, actor), NEW.change_reason,
            CASE WHEN explained THEN NEW.updated_at ELSE now() END,
            NEW.content_sha256, OLD.version
        WHERE NOT EXISTS (
            SELECT FROM prompt_template_versions
            WHERE template_name = NEW.template_name AND version = NEW.version
        );
    END IF;

    IF NOT explained THEN
        INSERT INTO template_events (
            event_id, template_name, action, actor, reason, from_version, to_version
        ) VALUES (
            NEW.event_id, NEW.template_name,
            CASE
                WHEN TG_OP = 'INSERT' THEN 'created'
                WHEN OLD.is_active AND NOT NEW.is_active THEN 'deactivated'
                WHEN NEW.is_active THEN 'activated'
                ELSE 'drafted'
            END,
            actor, NEW.change_reason, OLD.version,
            CASE WHEN NOT OLD.is_active OR NEW.is_active THEN NEW.version END
        );
    END IF;
    PERFORM pg_notify('onbook_templates', NEW.changed_epoch::text);
    RETURN NULL;
END
"""

_KEEP_VERSION: Final = """
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (
            SELECT FROM template_events event
            WHERE event.template_name = OLD.template_name AND event.to_version = OLD.version
                AND event.action IN <live_actions>
        ) OR EXISTS (
            SELECT FROM prompt_templates template
            WHERE template.template_name = OLD.template_name AND template.version = OLD.version
        ) OR EXISTS (
            -- Every event but a discarded draft's names what the row held before.
            SELECT FROM template_events event
            WHERE event.template_name = OLD.template_name AND event.from_version = OLD.version
                AND event.action <> 'discarded'
        ) OR EXISTS (
            SELECT FROM prompt_template_versions later
            WHERE later.template_name = OLD.template_name AND later.base_version = OLD.version
        ) OR EXISTS (
            SELECT FROM template_splits split
            WHERE split.template_name = OLD.template_name AND split.candidate_version = OLD.version
        ) THEN
            RAISE check_violation USING MESSAGE = <version_deleted>;
        END IF;
        RETURN OLD;
    END IF;
    IF OLD.content_sha256 IS NULL AND NEW.content_sha256 IS NOT NULL
        AND to_jsonb(NEW) - 'content_sha256' = to_jsonb(OLD) - 'content_sha256' THEN
        RETURN NEW;
    END IF;
    RAISE check_violation USING MESSAGE = <version_changed>;
END
"""

_KEEP_SPLIT: Final = """
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NOT EXISTS (
            SELECT FROM prompt_template_versions
            WHERE template_name = NEW.template_name AND version = NEW.candidate_version
        ) THEN
            RAISE check_violation USING MESSAGE = <candidate_unknown>;
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.ended_at IS NOT NULL THEN
        RAISE check_violation USING MESSAGE = <split_changed>;
    END IF;
    IF to_jsonb(NEW) - '{percent,ended_at,outcome}'::text[]
        <> to_jsonb(OLD) - '{percent,ended_at,outcome}'::text[] THEN
        RAISE check_violation USING MESSAGE = <split_frozen>;
    END IF;
    RETURN NEW;
END
"""

_KEEP_EPOCH: Final = """
BEGIN
    IF NEW.epoch < OLD.epoch THEN
        RAISE check_violation USING MESSAGE = <epoch_lost>;
    END IF;
    RETURN NEW;
END
"""

_COUNT_SPLIT: Final = """
BEGIN
    PERFORM pg_notify('onbook_templates', onbook_next_epoch()::text);
    RETURN NULL;
END
"""

_NAME_RULE: Final = Rule(
    "template_name",
    "NEW.template_name !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$'",
    NAME_SENTENCE,
)
_TOO_HIGH: Final = Rule(
    TOO_HIGH.column,
    f"{TOO_HIGH.broken} AND NEW.version IS DISTINCT FROM OLD.version::bigint + 1",
    TOO_HIGH.sentence,
)

_ROW: Final = "FOR EACH ROW"
_STATEMENT: Final = "FOR EACH STATEMENT"

# Triggers for the same moment run in the order of their names.
_TRIGGERS: Final = {
    "prompt_templates": (
        ("lock_epoch BEFORE INSERT OR UPDATE", _STATEMENT, "onbook_lock_epoch()"),
        ("row_1_check BEFORE INSERT OR UPDATE", _ROW, "onbook_check_template()"),
        ("row_2_number BEFORE INSERT OR UPDATE", _ROW, "onbook_number_template()"),
        ("row_3_record AFTER INSERT OR UPDATE", _ROW, "onbook_record_template()"),
        ("refuse_delete BEFORE DELETE", _ROW, "onbook_refuse(<template_deleted>)"),
        ("refuse_truncate BEFORE TRUNCATE", _STATEMENT, "onbook_refuse(<template_deleted>)"),
    ),
    "prompt_template_versions": (
        ("lock_epoch BEFORE INSERT", _STATEMENT, "onbook_lock_epoch()"),
        ("keep BEFORE UPDATE OR DELETE", _ROW, "onbook_keep_version()"),
        ("refuse_truncate BEFORE TRUNCATE", _STATEMENT, "onbook_refuse(<version_deleted>)"),
    ),
    "template_events": (
        ("lock_epoch BEFORE INSERT", _STATEMENT, "onbook_lock_epoch()"),
        ("refuse_change BEFORE UPDATE OR DELETE", _ROW, "onbook_refuse(<event_changed>)"),
        ("refuse_truncate BEFORE TRUNCATE", _STATEMENT, "onbook_refuse(<event_changed>)"),
    ),
    "template_splits": (
        ("lock_epoch BEFORE INSERT OR UPDATE", _STATEMENT, "onbook_lock_epoch()"),
        ("keep BEFORE INSERT OR UPDATE", _ROW, "onbook_keep_split()"),
        ("count AFTER INSERT OR UPDATE", _ROW, "onbook_count_split()"),
        ("refuse_delete BEFORE DELETE", _ROW, "onbook_refuse(<split_deleted>)"),
        ("refuse_truncate BEFORE TRUNCATE", _STATEMENT, "onbook_refuse(<split_deleted>)"),
    ),
    "template_epoch": (
        ("keep BEFORE UPDATE", _ROW, "onbook_keep_epoch()"),
        ("refuse_delete BEFORE DELETE", _ROW, "onbook_refuse(<epoch_lost>)"),
        ("refuse_truncate BEFORE TRUNCATE", _STATEMENT, "onbook_refuse(<epoch_lost>)"),
    ),
}

_BODIES: Final = {
    "onbook_lock_epoch": _LOCK_EPOCH,
    "onbook_refuse": _REFUSE,
    "onbook_check_template": _CHECK,
    "onbook_number_template": _NUMBER,
    "onbook_record_template": _RECORD,
    "onbook_keep_version": _KEEP_VERSION,
    "onbook_keep_split": _KEEP_SPLIT,
    "onbook_count_split": _COUNT_SPLIT,
    "onbook_keep_epoch": _KEEP_EPOCH,
}


def create(schema: str) -> Sequence[str]:
    """Return the statements that create functions and triggers in ``schema``, a quoted name."""
    rules = "".join(
        filled(_RULE, column=rule.column, broken=rule.broken, sentence=quoted(rule.sentence))
        for rule in (_NAME_RULE, _TOO_HIGH, *RULES)
    )
    return [
        filled(_NEXT_EPOCH, schema=schema),
        *(
            filled(_FUNCTION, name=name, schema=schema, body=filled(body, rules=rules))
            for name, body in _BODIES.items()
        ),
        *(
            f"CREATE TRIGGER {moment} ON {table} {level} EXECUTE FUNCTION {filled(call)}"
            for table, triggers in _TRIGGERS.items()
            for moment, level, call in triggers
        ),
    ]


def drop() -> Sequence[str]:
    """Return the statements that remove them."""
    return [f"DROP FUNCTION {name}() CASCADE" for name in (*_BODIES, "onbook_next_epoch")]
