"""The first tables: templates and their epoch, the audit log and its texts, access keys."""

import sqlalchemy as sa
from alembic import op

from onbook.adapters.database.types import JsonDocument, UtcDateTime, new_uuid, utc_now

revision = "2026_11_22_first_tables"
down_revision = None
branch_labels = None
depends_on = None

_CONTENT = (
    "model_type",
    "use_case",
    "content_mode",
    "target",
    "system_prompt",
    "user_format",
    "token_limit",
    "token_unit",
    "max_tokens",
    "sampling",
    "examples",
    "examples_sent",
    "grammar",
    "variables",
    "negative_prompt",
)
_CONTENT_CHANGED = " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in _CONTENT)

# Raw SQL is a supported way in, so what every edit must do is done by the database.
SQLITE_TRIGGERS = (
    *(
        f"""
        CREATE TRIGGER prompt_templates_epoch_{event} AFTER {event} ON prompt_templates
        BEGIN UPDATE template_epoch SET epoch = epoch + 1; END
        """  # noqa: S608 - the three words below, no input
        for event in ("insert", "update", "delete")
    ),
    """
    CREATE TRIGGER prompt_templates_version_down BEFORE UPDATE ON prompt_templates
    WHEN NEW.version < OLD.version
    BEGIN SELECT RAISE(ABORT, 'the version of a template never goes down'); END
    """,
    f"""
    CREATE TRIGGER prompt_templates_version_up AFTER UPDATE ON prompt_templates
    WHEN NEW.version = OLD.version AND ({_CONTENT_CHANGED})
    BEGIN UPDATE prompt_templates SET version = OLD.version + 1 WHERE id = NEW.id; END
    """,  # noqa: S608 - the columns above, no input
    """
    CREATE TRIGGER prompt_templates_updated_at AFTER UPDATE ON prompt_templates
    WHEN NEW.updated_at IS OLD.updated_at
    BEGIN
        UPDATE prompt_templates
        SET updated_at = strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now') WHERE id = NEW.id;
    END
    """,
)


def upgrade() -> None:
    _create_templates()
    _create_log()
    _create_access_keys()
    for trigger in SQLITE_TRIGGERS if op.get_bind().dialect.name == "sqlite" else ():
        op.get_bind().exec_driver_sql(trigger)


def downgrade() -> None:
    for table in (
        "access_keys",
        "enhancement_texts",
        "enhancement_logs",
        "template_epoch",
        "prompt_templates",
    ):
        op.drop_table(table)


def _create_templates() -> None:
    op.create_table(
        "prompt_templates",
        sa.Column("id", sa.String(36), nullable=False, server_default=new_uuid()),
        sa.Column("template_name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("model_type", sa.Text, nullable=False),
        sa.Column("use_case", sa.Text, nullable=False),
        sa.Column("content_mode", sa.Text, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("system_prompt", sa.Text, nullable=False),
        sa.Column("user_format", sa.Text),
        sa.Column("token_limit", sa.Integer, nullable=False),
        sa.Column("token_unit", sa.Text, nullable=False, server_default=sa.text("'model'")),
        sa.Column("max_tokens", sa.Integer, nullable=False, server_default=sa.text("256")),
        sa.Column("sampling", JsonDocument, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("examples", JsonDocument, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("examples_sent", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("grammar", sa.Text),
        sa.Column("variables", JsonDocument, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("negative_prompt", sa.Text),
        sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("is_active", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("updated_by", sa.Text),
        sa.Column("change_reason", sa.Text),
        sa.Column("created_at", UtcDateTime, nullable=False, server_default=utc_now()),
        sa.Column("updated_at", UtcDateTime, nullable=False, server_default=utc_now()),
        sa.Column("content_sha256", sa.String(64)),
        sa.UniqueConstraint("template_name", name="uq_prompt_templates_template_name"),
        sa.CheckConstraint(
            "content_mode IN ('sfw', 'nsfw')", name=op.f("ck_prompt_templates_content_mode")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_prompt_templates"),
    )
    op.create_index(
        "uq_prompt_templates_active_key",
        "prompt_templates",
        ["model_type", "use_case", "content_mode", sa.text("coalesce(target, '')")],
        unique=True,
        sqlite_where=sa.text("is_active"),
        postgresql_where=sa.text("is_active"),
    )
    op.create_table(
        "template_epoch",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.CheckConstraint("id = 1", name=op.f("ck_template_epoch_single_row")),
        sa.PrimaryKeyConstraint("id", name="pk_template_epoch"),
    )
    op.execute("INSERT INTO template_epoch (id, epoch) VALUES (1, 0)")


def _create_log() -> None:
    op.create_table(
        "enhancement_logs",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("function", sa.Text, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text),
        sa.Column("job_type", sa.Text),
        sa.Column("template_name", sa.Text),
        sa.Column("template_version", sa.Integer),
        sa.Column("template_sha256", sa.String(64)),
        sa.Column("template_source", sa.Text),
        sa.Column("content_mode", sa.Text, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("model_type", sa.Text),
        sa.Column("model_used", sa.Text),
        sa.Column("worker_id", sa.Text),
        sa.Column("strategy", sa.Text),
        sa.Column("fallback_level", sa.Integer),
        sa.Column("cache_hit", sa.Boolean),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("execution_time_ms", sa.Double, nullable=False),
        sa.Column("worker_response_time_ms", sa.Double),
        sa.Column("token_count", sa.Integer),
        sa.Column("token_limit", sa.Integer),
        sa.Column("tokens_before_compression", sa.Integer),
        sa.Column("tokenizer", sa.Text),
        sa.Column("compression_applied", sa.Boolean),
        sa.Column("finish_reason", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("integrity_status", sa.Text, nullable=False),
        sa.Column("prompt_sha256", sa.String(64), nullable=False),
        sa.Column("messages_sha256", sa.String(64)),
        sa.Column("output_sha256", sa.String(64)),
        sa.Column("seed", sa.BigInteger),
        sa.Column("receipt", sa.Text),
        sa.Column("decision", sa.Text),
        sa.UniqueConstraint("request_id", name="uq_enhancement_logs_request_id"),
        sa.PrimaryKeyConstraint("id", name="pk_enhancement_logs"),
    )
    op.create_index("ix_enhancement_logs_created_at", "enhancement_logs", ["created_at"])
    op.create_index(
        "ix_enhancement_logs_template_name_created_at",
        "enhancement_logs",
        ["template_name", "created_at"],
    )
    op.create_table(
        "enhancement_texts",
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("salt", sa.Text, nullable=False),
        sa.Column("original", sa.Text, nullable=False),
        sa.Column("messages", sa.Text),
        sa.Column("raw_output", sa.Text),
        sa.Column("enhanced", sa.Text),
        sa.PrimaryKeyConstraint("request_id", name="pk_enhancement_texts"),
    )
    op.create_index("ix_enhancement_texts_created_at", "enhancement_texts", ["created_at"])


def _create_access_keys() -> None:
    op.create_table(
        "access_keys",
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("key_hmac", sa.String(64), nullable=False),
        sa.Column("scopes", JsonDocument, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime),
        sa.Column("revoked_at", UtcDateTime),
        sa.Column("last_used_at", UtcDateTime),
        sa.UniqueConstraint("key_hmac", name="uq_access_keys_key_hmac"),
        sa.PrimaryKeyConstraint("key_id", name="pk_access_keys"),
    )
