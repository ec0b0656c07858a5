"""The history of templates: versions, events, traffic splits, and who serves what."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import context, op

from onbook.adapters.database.migrations import book_triggers_postgres, book_triggers_sqlite
from onbook.adapters.database.migrations.book_rules import filled
from onbook.adapters.database.types import JsonDocument, UtcDateTime, new_uuid, utc_now

revision = "2026_11_23_template_history"
down_revision = "2026_11_22_first_tables"
branch_labels = None
depends_on = None

# What the first revision let an edit by hand leave behind, and nothing can count on from.
_MEND_VERSION = {
    "sqlite": """
        UPDATE prompt_templates SET version = min(max(1, CAST(version AS INTEGER)), 1000000000)
        WHERE typeof(version) <> 'integer' OR version NOT BETWEEN 1 AND 1000000000
    """,
    "postgresql": """
        UPDATE prompt_templates SET version = least(greatest(1, version), 1000000000)
        WHERE version NOT BETWEEN 1 AND 1000000000
    """,
}
# A time edited by hand may be none; a reader would stumble over it for ever.
_CHANGED_AT = {
    "sqlite": """
        CASE WHEN updated_at GLOB
            '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].*+00:00'
        THEN updated_at ELSE <now> END
    """,
    "postgresql": "updated_at",
}
_BACKFILL = (
    "UPDATE template_epoch SET epoch = epoch + 1 WHERE EXISTS (SELECT 1 FROM prompt_templates)",
    """
    UPDATE prompt_templates SET event_id = <uuid>,
        changed_epoch = coalesce((SELECT epoch FROM template_epoch), 0)
    """,
    """
    INSERT INTO prompt_template_versions (
        template_name, version, <recorded>, author, reason, created_at, content_sha256
    )
    SELECT template_name, version, <recorded>, coalesce(updated_by, 'migration'), change_reason,
        <changed_at>, content_sha256
    FROM prompt_templates
    """,
    """
    INSERT INTO template_events (
        event_id, created_at, template_name, action, actor, reason, to_version
    )
    SELECT event_id, <changed_at>, template_name, 'created', coalesce(updated_by, 'migration'),
        change_reason, version
    FROM prompt_templates ORDER BY updated_at, template_name
    """,
)


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        _drop_triggers(connection, _first_triggers())
    _add_columns()
    _create_versions()
    _create_events()
    _create_splits_and_gateways()
    _fill(connection)
    for statement in _triggers(connection):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        _drop_triggers(connection, book_triggers_sqlite.create())
    else:
        for statement in book_triggers_postgres.drop():
            connection.exec_driver_sql(statement)
    for table in ("gateways", "template_splits", "template_events", "prompt_template_versions"):
        op.drop_table(table)
    op.drop_index("ix_prompt_templates_changed_epoch", "prompt_templates")
    for column in ("changed_epoch", "event_id", "tests"):
        op.drop_column("prompt_templates", column)
    op.drop_column("enhancement_logs", "template_split")
    if connection.dialect.name == "sqlite":
        for trigger in _first_triggers():
            connection.exec_driver_sql(trigger)


def _first_triggers() -> Sequence[str]:
    first = context.script.get_revision(down_revision).module
    return tuple(first.SQLITE_TRIGGERS)


def _drop_triggers(connection: sa.Connection, created: Sequence[str]) -> None:
    """Drop what the statements ``created`` made; the operator's own triggers stay."""
    for statement in created:
        _, _, name, *_ = statement.split(maxsplit=3)
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")


def _triggers(connection: sa.Connection) -> list[str]:
    if connection.dialect.name == "sqlite":
        return list(book_triggers_sqlite.create())
    schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    return list(book_triggers_postgres.create(str(schema)))


def _fill(connection: sa.Connection) -> None:
    name = connection.dialect.name
    now = str(utc_now().compile(dialect=connection.dialect))
    connection.exec_driver_sql(_MEND_VERSION[name])
    for statement in _BACKFILL:
        connection.exec_driver_sql(
            filled(
                statement,
                uuid=str(new_uuid().compile(dialect=connection.dialect)),
                changed_at=filled(_CHANGED_AT[name], now=now),
            )
        )


def _add_columns() -> None:
    for column in (
        sa.Column("tests", JsonDocument, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("event_id", sa.String(36)),
        sa.Column("changed_epoch", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    ):
        op.add_column("prompt_templates", column)
    op.create_index("ix_prompt_templates_changed_epoch", "prompt_templates", ["changed_epoch"])
    op.add_column("enhancement_logs", sa.Column("template_split", sa.Text))


def _create_versions() -> None:
    op.create_table(
        "prompt_template_versions",
        sa.Column("template_name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("model_type", sa.Text, nullable=False),
        sa.Column("use_case", sa.Text, nullable=False),
        sa.Column("content_mode", sa.Text, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("system_prompt", sa.Text, nullable=False),
        sa.Column("user_format", sa.Text),
        sa.Column("token_limit", sa.Integer, nullable=False),
        sa.Column("token_unit", sa.Text, nullable=False),
        sa.Column("max_tokens", sa.Integer, nullable=False),
        sa.Column("sampling", JsonDocument, nullable=False),
        sa.Column("examples", JsonDocument, nullable=False),
        sa.Column("examples_sent", sa.Integer, nullable=False),
        sa.Column("grammar", sa.Text),
        sa.Column("variables", JsonDocument, nullable=False),
        sa.Column("negative_prompt", sa.Text),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("tests", JsonDocument, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("created_at", UtcDateTime, nullable=False, server_default=utc_now()),
        sa.Column("content_sha256", sa.String(64)),
        sa.Column("base_version", sa.Integer),
        sa.Column("origin_version", sa.Integer),
        sa.PrimaryKeyConstraint("template_name", "version", name="pk_prompt_template_versions"),
    )


def _create_events() -> None:
    op.create_table(
        "template_events",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.Identity(),
            nullable=False,
        ),
        sa.Column("event_id", sa.String(36), nullable=False, server_default=new_uuid()),
        sa.Column("created_at", UtcDateTime, nullable=False, server_default=utc_now()),
        sa.Column("template_name", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("from_version", sa.Integer),
        sa.Column("to_version", sa.Integer),
        sa.Column("gate", JsonDocument),
        sa.UniqueConstraint("event_id", name="uq_template_events_event_id"),
        sa.PrimaryKeyConstraint("position", name="pk_template_events"),
    )
    op.create_index(
        "ix_template_events_template_name_position",
        "template_events",
        ["template_name", "position"],
    )


def _create_splits_and_gateways() -> None:
    op.create_table(
        "template_splits",
        sa.Column("split_id", sa.String(36), nullable=False),
        sa.Column("template_name", sa.Text, nullable=False),
        sa.Column("candidate_version", sa.Integer, nullable=False),
        sa.Column("percent", sa.Integer, nullable=False),
        sa.Column("started_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("started_at", UtcDateTime, nullable=False),
        sa.Column("ended_at", UtcDateTime),
        sa.Column("outcome", sa.Text),
        sa.CheckConstraint("percent BETWEEN 1 AND 99", name=op.f("ck_template_splits_percent")),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (outcome IS NULL)", name=op.f("ck_template_splits_ended")
        ),
        sa.PrimaryKeyConstraint("split_id", name="pk_template_splits"),
    )
    op.create_index(
        "uq_template_splits_running",
        "template_splits",
        ["template_name"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "gateways",
        sa.Column("gateway_id", sa.String(36), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("active_sha256", sa.String(64), nullable=False),
        sa.Column("seen_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("gateway_id", name="pk_gateways"),
    )
