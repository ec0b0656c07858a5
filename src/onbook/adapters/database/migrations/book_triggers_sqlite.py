"""The triggers of revision 2026_11_23 on SQLite, which does not know who writes: ``sql:local``.

A trigger cannot change the row that is being written, so ``record`` updates it afterwards. That
second update is known by its change of ``changed_epoch``, which no other statement may make; so
it does the same whether the client has recursive triggers on or off.

An INSERT OR REPLACE deletes rows without a word to any trigger, so what it would delete is looked
for first.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from sqlalchemy.dialects.sqlite import dialect

from onbook.adapters.database.migrations.book_guards_sqlite import GUARDS, VERSION_DIFFERS
from onbook.adapters.database.migrations.book_rules import (
    INTEGER_COLUMNS,
    JSON_COLUMNS,
    NAME_SENTENCE,
    RECORDED,
    RULES,
    TEXT_COLUMNS,
    TOO_HIGH,
    Rule,
    filled,
    quoted,
)
from onbook.adapters.database.types import new_uuid, utc_now

_NOW: Final = str(utc_now().compile(dialect=dialect()))
_UUID: Final = str(new_uuid().compile(dialect=dialect()))


def _differs(left: str, right: str) -> str:
    return "(" + " OR ".join(f"{left}.{name} IS NOT {right}.{name}" for name in RECORDED) + ")"


_CHANGED: Final = _differs("NEW", "OLD")
_NUMBERED: Final = f"({_CHANGED} OR NEW.version IS NOT OLD.version)"
_MATTERS: Final = f"({_NUMBERED} OR NEW.is_active IS NOT OLD.is_active)"

# The event that the write names, if it is the template's newest.
_OURS: Final = """
    (
        SELECT CASE WHEN event.event_id = NEW.event_id THEN event.event_id END
        FROM template_events event
        WHERE event.template_name = NEW.template_name ORDER BY event.position DESC LIMIT 1
    )
"""
# It says what a raw write's event would; <asked> holds where the write gets the number it asks for.
_EXPLAINED: Final = """
    (
        EXISTS (
            SELECT 1 FROM template_events event
            WHERE event.event_id = <ours>
                AND event.to_version IS CASE WHEN NOT <put_out> THEN NEW.version END
                AND (NOT NEW.is_active OR event.action IN <live_actions>)
        ) AND <asked>
    )
"""
# With the numbers of discarded drafts, which another text never gets.
_HIGHEST: Final = f"""
    (
        SELECT max(given.version) FROM (
            SELECT version FROM prompt_template_versions
            WHERE template_name = NEW.template_name
            UNION ALL
            SELECT to_version FROM template_events
            WHERE template_name = NEW.template_name AND event_id IS NOT {_OURS}
        ) given
    )
"""  # noqa: S608 - column names of ours
# A version of this number is there and says the same; or the number belongs to another text.
_EQUAL: Final = f"""
    EXISTS (
        SELECT 1 FROM prompt_template_versions version
        WHERE version.template_name = NEW.template_name AND version.version = NEW.version
            AND NOT {_differs("version", "NEW")}
    )
"""  # noqa: S608 - column names of ours
_TAKEN: Final = f"""
    (
        EXISTS (
            SELECT 1 FROM prompt_template_versions version
            WHERE version.template_name = NEW.template_name AND version.version = NEW.version
                AND {_differs("version", "NEW")}
        ) OR EXISTS (
            SELECT 1 FROM template_events event
            WHERE event.template_name = NEW.template_name AND event.to_version = NEW.version
                AND event.event_id IS NOT {_OURS}
        )
    )
"""  # noqa: S608 - column names of ours
_LIVE_ABOVE: Final = """
    EXISTS (
        SELECT 1 FROM template_events event
        WHERE event.template_name = NEW.template_name AND event.to_version > NEW.version
            AND event.action IN <live_actions>
    )
"""

_REFUSE: Final = "SELECT RAISE(ABORT, <sentence>) WHERE <broken>;"

_CHECK_INSERT: Final = """
CREATE TRIGGER prompt_templates_check_insert BEFORE INSERT ON prompt_templates
BEGIN
    SELECT RAISE(ABORT, <renamed>) WHERE EXISTS (
        SELECT 1 FROM prompt_templates other
        WHERE other.id = NEW.id AND other.template_name IS NOT NEW.template_name
    );
    <rules>
    <key_is_free>
END
"""

_CHECK_UPDATE: Final = """
CREATE TRIGGER prompt_templates_check_update BEFORE UPDATE ON prompt_templates
BEGIN
    SELECT RAISE(ABORT, <version_down>) WHERE NEW.version < OLD.version;
    SELECT RAISE(ABORT, <renamed>)
        WHERE NEW.template_name IS NOT OLD.template_name OR NEW.id IS NOT OLD.id;
    SELECT RAISE(ABORT, <epoch_set>)
        WHERE NEW.changed_epoch IS NOT OLD.changed_epoch AND (
            <changed> OR NEW.is_active IS NOT OLD.is_active
            OR NEW.changed_epoch IS NOT (SELECT epoch FROM template_epoch)
            OR NOT <equal>
        );
    <rules>
    <key_is_free>
END
"""

_KEY_IS_FREE: Final = """
    SELECT RAISE(ABORT, <key_taken>) WHERE NEW.is_active AND EXISTS (
        SELECT 1 FROM prompt_templates other
        WHERE other.is_active AND other.template_name IS NOT NEW.template_name
            AND other.model_type = NEW.model_type AND other.use_case = NEW.use_case
            AND other.content_mode = NEW.content_mode
            AND coalesce(other.target, '') = coalesce(NEW.target, '')
    );
"""

# After the version row is there, the number is known: that of a version that says the same, or
# else the highest, which is the one just written.
_RECORD_INSERT: Final = """
CREATE TRIGGER prompt_templates_record_insert AFTER INSERT ON prompt_templates
BEGIN
    UPDATE template_epoch SET epoch = epoch + 1;
    INSERT INTO prompt_template_versions (
        template_name, version, <recorded>, author, reason, created_at, content_sha256
    )
    SELECT
        NEW.template_name,
        CASE WHEN NEW.version > coalesce(<highest>, 0) THEN NEW.version ELSE <highest> + 1 END,
        <new>,
        coalesce(NEW.updated_by, 'sql:local'), NEW.change_reason,
        CASE WHEN <explained> THEN NEW.updated_at ELSE <now> END,
        CASE WHEN <explained> THEN NEW.content_sha256 END
    WHERE NOT <equal> OR <live_above>;
    UPDATE prompt_templates SET
        version = CASE WHEN <equal> AND NOT <live_above> THEN NEW.version ELSE <highest> END,
        changed_epoch = (SELECT epoch FROM template_epoch),
        event_id = CASE WHEN <explained> THEN NEW.event_id ELSE <uuid> END,
        updated_by = coalesce(NEW.updated_by, CASE WHEN NOT <explained> THEN 'sql:local' END),
        content_sha256 = CASE WHEN <explained> THEN NEW.content_sha256 END
    WHERE id = NEW.id;
    INSERT INTO template_events (event_id, template_name, action, actor, reason, to_version)
    SELECT event_id, template_name, 'created', 'sql:local', change_reason, version
    FROM prompt_templates template
    WHERE id = NEW.id AND NOT EXISTS (
        SELECT 1 FROM template_events event WHERE event.event_id = template.event_id
    );
END
"""

_RECORD_UPDATE: Final = """
CREATE TRIGGER prompt_templates_record_update AFTER UPDATE ON prompt_templates
WHEN NEW.changed_epoch IS OLD.changed_epoch AND <matters>
BEGIN
    UPDATE template_epoch SET epoch = epoch + 1;
    INSERT INTO prompt_template_versions (
        template_name, version, <recorded>, author, reason, created_at, content_sha256,
        base_version
    )
    SELECT
        NEW.template_name,
        CASE
            WHEN NEW.version > OLD.version AND NOT <taken> THEN NEW.version
            ELSE max(coalesce(<highest>, 0), OLD.version) + 1
        END,
        <new>, <author>, <reason>,
        CASE WHEN <raw> THEN <now> ELSE NEW.updated_at END,
        <digest>,
        OLD.version
    WHERE <numbered> AND NOT (NEW.version > OLD.version AND <equal>);
    UPDATE prompt_templates SET
        version = CASE
            WHEN NOT <numbered> OR (NEW.version > OLD.version AND <equal>) THEN NEW.version
            ELSE <highest>
        END,
        changed_epoch = (SELECT epoch FROM template_epoch),
        event_id = CASE WHEN <raw> THEN <uuid> ELSE NEW.event_id END,
        updated_by = CASE WHEN <raw> THEN <author> ELSE NEW.updated_by END,
        change_reason = <reason>,
        content_sha256 = <digest>,
        updated_at = CASE
            WHEN NEW.updated_at IS NOT OLD.updated_at THEN NEW.updated_at ELSE <now>
        END
    WHERE id = NEW.id;
    INSERT INTO template_events (
        event_id, template_name, action, actor, reason, from_version, to_version
    )
    SELECT
        event_id, template_name,
        CASE
            WHEN OLD.is_active AND NOT NEW.is_active THEN 'deactivated'
            WHEN NEW.is_active THEN 'activated'
            ELSE 'drafted'
        END,
        'sql:local', change_reason, OLD.version,
        CASE WHEN NOT OLD.is_active OR NEW.is_active THEN version END
    FROM prompt_templates template
    WHERE id = NEW.id AND NOT EXISTS (
        SELECT 1 FROM template_events event WHERE event.event_id = template.event_id
    );
END
"""
_INSERT_PARTS: Final = {
    "explained": filled(
        _EXPLAINED,
        ours=_OURS,
        put_out="0",
        asked=filled(
            "((<equal> AND NOT <live_above>) OR NEW.version > coalesce(<highest>, 0))",
            equal=_EQUAL,
            live_above=filled(_LIVE_ABOVE),
            highest=_HIGHEST,
        ),
    ),
}
_RAW: Final = filled(
    "(NEW.event_id IS OLD.event_id OR NOT <explained>)",
    explained=filled(
        _EXPLAINED,
        ours=_OURS,
        put_out="(OLD.is_active AND NOT NEW.is_active)",
        asked=f"""
            (NOT {_NUMBERED} OR (NEW.version > OLD.version AND ({_EQUAL} OR NOT {_TAKEN})))
        """,
    ),
)
_UPDATE_PARTS: Final = {
    "raw": _RAW,
    "author": f"CASE WHEN {_RAW} AND NEW.updated_by IS OLD.updated_by THEN 'sql:local'"
    " ELSE coalesce(NEW.updated_by, 'sql:local') END",
    "reason": f"CASE WHEN {_RAW} AND NEW.change_reason IS OLD.change_reason THEN NULL"
    " ELSE NEW.change_reason END",
    "digest": f"CASE WHEN {_RAW} AND {_CHANGED} THEN NULL ELSE NEW.content_sha256 END",
}

# Filling in a hash is no edit.
_STAMP: Final = """
CREATE TRIGGER prompt_templates_stamp AFTER UPDATE ON prompt_templates
WHEN NEW.changed_epoch IS OLD.changed_epoch AND NOT <matters>
    AND NEW.updated_at IS OLD.updated_at AND NEW.content_sha256 IS OLD.content_sha256
    AND NEW.updated_at IS NOT <now>
BEGIN
    UPDATE prompt_templates SET updated_at = <now> WHERE id = NEW.id;
END
"""


def create() -> Sequence[str]:
    """Return the statements that create the triggers."""
    parts = {
        "changed": _CHANGED,
        "matters": _MATTERS,
        "numbered": _NUMBERED,
        "highest": _HIGHEST,
        "equal": _EQUAL,
        "taken": _TAKEN,
        "live_above": filled(_LIVE_ABOVE),
        "key_is_free": filled(_KEY_IS_FREE),
        "now": _NOW,
        "uuid": _UUID,
        "version_differs": VERSION_DIFFERS,
        **_INSERT_PARTS,
        **_UPDATE_PARTS,
    }
    too_high = filled(_REFUSE, sentence=quoted(TOO_HIGH.sentence), broken=TOO_HIGH.broken)
    return [
        filled(_CHECK_INSERT, rules=_refusals() + too_high, **parts),
        filled(
            _CHECK_UPDATE,
            # The second update may give a higher number.
            rules=_refusals("NEW.{0} IS NOT OLD.{0} AND ")
            + too_high.replace(
                "WHERE",
                "WHERE NEW.version NOT IN (OLD.version, OLD.version + 1)"
                " AND NEW.changed_epoch IS OLD.changed_epoch AND",
            ),
            **parts,
        ),
        *(
            filled(trigger, **parts)
            for trigger in (_RECORD_INSERT, _RECORD_UPDATE, _STAMP, *GUARDS)
        ),
    ]


def _refusals(only_if: str = "") -> str:
    return "\n    ".join(
        filled(
            _REFUSE,
            sentence=quoted(rule.sentence),
            broken=only_if.format(rule.column) + f"({rule.broken})",
        )
        for rule in _rules()
    )


def _rules() -> Iterator[Rule]:
    """Give the rules for both databases, and those that Postgres has in its types."""
    for name in INTEGER_COLUMNS:
        yield Rule(name, f"typeof(NEW.{name}) <> 'integer'", f"{name} must be a whole number")
    for name in TEXT_COLUMNS:
        yield Rule(name, f"typeof(NEW.{name}) NOT IN ('text', 'null')", f"{name} must be a text")
        yield Rule(name, f"instr(NEW.{name}, char(0)) > 0", f"{name} holds a NUL character")
    for name in JSON_COLUMNS:
        yield Rule(name, f"NOT json_valid(NEW.{name})", f"{name} must be valid JSON")
    yield Rule("is_active", "NEW.is_active NOT IN (0, 1)", "is_active must be true or false")
    yield Rule(
        "template_name",
        "NEW.template_name NOT GLOB '[A-Za-z0-9]*'"
        " OR NEW.template_name GLOB '*[^A-Za-z0-9_.-]*' OR length(NEW.template_name) > 128",
        NAME_SENTENCE,
    )
    yield from RULES
