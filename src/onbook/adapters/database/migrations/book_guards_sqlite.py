"""The triggers of revision 2026_11_23 on SQLite that only refuse or count."""

from typing import Final

from onbook.adapters.database.migrations.book_rules import RECORDED

_KEPT_OF_A_VERSION: Final = (
    "template_name",
    "version",
    *RECORDED,
    "author",
    "reason",
    "created_at",
    "base_version",
    "origin_version",
)
VERSION_DIFFERS: Final = " OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in _KEPT_OF_A_VERSION)

GUARDS: Final = (
    """
    CREATE TRIGGER prompt_templates_refuse_delete BEFORE DELETE ON prompt_templates
    BEGIN SELECT RAISE(ABORT, <template_deleted>); END
    """,
    """
    CREATE TRIGGER prompt_template_versions_refuse_replace BEFORE INSERT
    ON prompt_template_versions WHEN EXISTS (
        SELECT 1 FROM prompt_template_versions
        WHERE template_name = NEW.template_name AND version = NEW.version
    )
    BEGIN SELECT RAISE(ABORT, <version_changed>); END
    """,
    """
    CREATE TRIGGER prompt_template_versions_refuse_update BEFORE UPDATE
    ON prompt_template_versions
    WHEN OLD.content_sha256 IS NOT NULL OR NEW.content_sha256 IS NULL OR <version_differs>
    BEGIN SELECT RAISE(ABORT, <version_changed>); END
    """,
    """
    CREATE TRIGGER prompt_template_versions_refuse_delete BEFORE DELETE
    ON prompt_template_versions WHEN EXISTS (
        SELECT 1 FROM template_events event
        WHERE event.template_name = OLD.template_name AND event.to_version = OLD.version
            AND event.action IN <live_actions>
    ) OR EXISTS (
        SELECT 1 FROM prompt_templates template
        WHERE template.template_name = OLD.template_name AND template.version = OLD.version
    ) OR EXISTS (
        -- Every event but a discarded draft's names what the row held before.
        SELECT 1 FROM template_events event
        WHERE event.template_name = OLD.template_name AND event.from_version = OLD.version
            AND event.action <> 'discarded'
    ) OR EXISTS (
        SELECT 1 FROM prompt_template_versions later
        WHERE later.template_name = OLD.template_name AND later.base_version = OLD.version
    ) OR EXISTS (
        SELECT 1 FROM template_splits split
        WHERE split.template_name = OLD.template_name AND split.candidate_version = OLD.version
    )
    BEGIN SELECT RAISE(ABORT, <version_deleted>); END
    """,
    """
    CREATE TRIGGER template_events_refuse_replace BEFORE INSERT ON template_events
    WHEN EXISTS (
        SELECT 1 FROM template_events
        WHERE event_id = NEW.event_id OR position = NEW.position
    )
    BEGIN SELECT RAISE(ABORT, <event_changed>); END
    """,
    """
    CREATE TRIGGER template_events_refuse_update BEFORE UPDATE ON template_events
    BEGIN SELECT RAISE(ABORT, <event_changed>); END
    """,
    """
    CREATE TRIGGER template_events_refuse_delete BEFORE DELETE ON template_events
    BEGIN SELECT RAISE(ABORT, <event_changed>); END
    """,
    """
    CREATE TRIGGER template_splits_refuse_replace BEFORE INSERT ON template_splits
    BEGIN
        SELECT RAISE(ABORT, <split_changed>)
            WHERE EXISTS (SELECT 1 FROM template_splits WHERE split_id = NEW.split_id);
        SELECT RAISE(ABORT, <split_running>) WHERE NEW.ended_at IS NULL AND EXISTS (
            SELECT 1 FROM template_splits
            WHERE template_name = NEW.template_name AND ended_at IS NULL
        );
        SELECT RAISE(ABORT, <candidate_unknown>) WHERE NOT EXISTS (
            SELECT 1 FROM prompt_template_versions
            WHERE template_name = NEW.template_name AND version = NEW.candidate_version
        );
    END
    """,
    """
    CREATE TRIGGER template_splits_refuse_update BEFORE UPDATE ON template_splits
    BEGIN
        SELECT RAISE(ABORT, <split_changed>) WHERE OLD.ended_at IS NOT NULL;
        SELECT RAISE(ABORT, <split_frozen>) WHERE NEW.split_id IS NOT OLD.split_id
            OR NEW.template_name IS NOT OLD.template_name
            OR NEW.candidate_version IS NOT OLD.candidate_version
            OR NEW.started_by IS NOT OLD.started_by
            OR NEW.reason IS NOT OLD.reason
            OR NEW.started_at IS NOT OLD.started_at;
    END
    """,
    """
    CREATE TRIGGER template_splits_refuse_delete BEFORE DELETE ON template_splits
    BEGIN SELECT RAISE(ABORT, <split_deleted>); END
    """,
    """
    CREATE TRIGGER template_splits_count_insert AFTER INSERT ON template_splits
    BEGIN UPDATE template_epoch SET epoch = epoch + 1; END
    """,
    """
    CREATE TRIGGER template_splits_count_update AFTER UPDATE ON template_splits
    BEGIN UPDATE template_epoch SET epoch = epoch + 1; END
    """,
    """
    CREATE TRIGGER template_epoch_refuse_replace BEFORE INSERT ON template_epoch
    WHEN EXISTS (SELECT 1 FROM template_epoch)
    BEGIN SELECT RAISE(ABORT, <epoch_lost>); END
    """,
    """
    CREATE TRIGGER template_epoch_refuse_decrease BEFORE UPDATE ON template_epoch
    WHEN NEW.epoch < OLD.epoch OR typeof(NEW.epoch) <> 'integer'
    BEGIN SELECT RAISE(ABORT, <epoch_lost>); END
    """,
    """
    CREATE TRIGGER template_epoch_refuse_delete BEFORE DELETE ON template_epoch
    BEGIN SELECT RAISE(ABORT, <epoch_lost>); END
    """,
)
