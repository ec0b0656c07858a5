"""The tables, portable between SQLite and Postgres. The migrations create them.

``tests/migrations`` holds this file and the chain together: they must describe one schema.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
    true,
)

from onbook.adapters.database.types import JsonDocument, UtcDateTime, new_uuid, utc_now

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# The defaults are for rows that come by raw SQL, a supported way in.
prompt_templates: Final = Table(
    "prompt_templates",
    metadata,
    Column("id", String(36), primary_key=True, server_default=new_uuid()),
    Column("template_name", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    Column("model_type", Text, nullable=False),
    Column("use_case", Text, nullable=False),
    Column("content_mode", Text, nullable=False),
    Column("target", Text),
    Column("system_prompt", Text, nullable=False),
    Column("user_format", Text),
    Column("token_limit", Integer, nullable=False),
    Column("token_unit", Text, nullable=False, server_default=text("'model'")),
    Column("max_tokens", Integer, nullable=False, server_default=text("256")),
    Column("sampling", JsonDocument, nullable=False, server_default=text("'{}'")),
    Column("examples", JsonDocument, nullable=False, server_default=text("'[]'")),
    Column("examples_sent", Integer, nullable=False, server_default=text("0")),
    Column("grammar", Text),
    Column("variables", JsonDocument, nullable=False, server_default=text("'[]'")),
    Column("negative_prompt", Text),
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("is_active", Boolean, nullable=False, server_default=true()),
    Column("updated_by", Text),
    Column("change_reason", Text),
    Column("created_at", UtcDateTime, nullable=False, server_default=utc_now()),
    Column("updated_at", UtcDateTime, nullable=False, server_default=utc_now()),
    # As of the last write by Onbook; readers recompute it, since raw SQL does not.
    Column("content_sha256", String(64)),
    UniqueConstraint("template_name"),
    CheckConstraint("content_mode IN ('sfw', 'nsfw')", name="content_mode"),
)

Index(
    "uq_prompt_templates_active_key",
    prompt_templates.c.model_type,
    prompt_templates.c.use_case,
    prompt_templates.c.content_mode,
    # NULLs differ from each other in an index, but "universal" is one target.
    text("coalesce(target, '')"),
    unique=True,
    sqlite_where=text("is_active"),
    postgresql_where=text("is_active"),
)

template_epoch: Final = Table(
    "template_epoch",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("id = 1", name="single_row"),
)

enhancement_logs: Final = Table(
    "enhancement_logs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("request_id", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("function", Text, nullable=False),
    Column("caller", Text, nullable=False),
    Column("user_id", Text),
    Column("job_type", Text),
    Column("template_name", Text),
    Column("template_version", Integer),
    Column("template_sha256", String(64)),
    Column("template_source", Text),
    Column("content_mode", Text, nullable=False),
    Column("target", Text),
    Column("model_type", Text),
    Column("model_used", Text),
    Column("worker_id", Text),
    Column("strategy", Text),
    Column("fallback_level", Integer),
    Column("cache_hit", Boolean),
    Column("attempts", Integer, nullable=False),
    Column("execution_time_ms", Double, nullable=False),
    Column("worker_response_time_ms", Double),
    Column("token_count", Integer),
    Column("token_limit", Integer),
    Column("tokens_before_compression", Integer),
    Column("tokenizer", Text),
    Column("compression_applied", Boolean),
    Column("finish_reason", Text),
    Column("error_code", Text),
    Column("integrity_status", Text, nullable=False),
    Column("prompt_sha256", String(64), nullable=False),
    Column("messages_sha256", String(64)),
    Column("output_sha256", String(64)),
    Column("seed", BigInteger),
    # JSON kept as text: a signature covers its exact bytes.
    Column("receipt", Text),
    Column("decision", Text),
    UniqueConstraint("request_id"),
)

Index(None, enhancement_logs.c.created_at)
Index(None, enhancement_logs.c.template_name, enhancement_logs.c.created_at)

# Without a foreign key to the row: texts are purged, and imported, on their own.
enhancement_texts: Final = Table(
    "enhancement_texts",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("salt", Text, nullable=False),
    Column("original", Text, nullable=False),
    Column("messages", Text),
    Column("raw_output", Text),
    Column("enhanced", Text),
)

Index(None, enhancement_texts.c.created_at)

access_keys: Final = Table(
    "access_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("key_hmac", String(64), nullable=False),
    Column("scopes", JsonDocument, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
    UniqueConstraint("key_hmac"),
)
