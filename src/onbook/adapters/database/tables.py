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
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
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
    Column("tests", JsonDocument, nullable=False, server_default=text("'[]'")),
    Column("is_active", Boolean, nullable=False, server_default=true()),
    Column("updated_by", Text),
    Column("change_reason", Text),
    Column("created_at", UtcDateTime, nullable=False, server_default=utc_now()),
    Column("updated_at", UtcDateTime, nullable=False, server_default=utc_now()),
    # NULL after an edit by raw SQL, until a gateway has filled it in; readers recompute it.
    Column("content_sha256", String(64)),
    # The event that explains the row's present state. A write that leaves it as it was came by
    # raw SQL, and the triggers write its event.
    Column("event_id", String(36)),
    # The epoch at which the row last changed, so that gateways read only what is new.
    Column("changed_epoch", BigInteger, nullable=False, server_default=text("0")),
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

Index(None, prompt_templates.c.changed_epoch)

# Append-only, kept so by triggers: no version changes but for a content_sha256 that was missing,
# and none that was ever live is deleted.
prompt_template_versions: Final = Table(
    "prompt_template_versions",
    metadata,
    Column("template_name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("model_type", Text, nullable=False),
    Column("use_case", Text, nullable=False),
    Column("content_mode", Text, nullable=False),
    Column("target", Text),
    Column("system_prompt", Text, nullable=False),
    Column("user_format", Text),
    Column("token_limit", Integer, nullable=False),
    Column("token_unit", Text, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("sampling", JsonDocument, nullable=False),
    Column("examples", JsonDocument, nullable=False),
    Column("examples_sent", Integer, nullable=False),
    Column("grammar", Text),
    Column("variables", JsonDocument, nullable=False),
    Column("negative_prompt", Text),
    Column("description", Text, nullable=False),
    Column("tests", JsonDocument, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text),
    Column("created_at", UtcDateTime, nullable=False, server_default=utc_now()),
    Column("content_sha256", String(64)),
    Column("base_version", Integer),
    Column("origin_version", Integer),
    PrimaryKeyConstraint("template_name", "version"),
)

# Append-only, kept so by triggers.
template_events: Final = Table(
    "template_events",
    metadata,
    # In the order of commits; the id is what other rows refer to.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    Column("event_id", String(36), nullable=False, server_default=new_uuid()),
    Column("created_at", UtcDateTime, nullable=False, server_default=utc_now()),
    Column("template_name", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text),
    Column("from_version", Integer),
    Column("to_version", Integer),
    Column("gate", JsonDocument),
    UniqueConstraint("event_id"),
)

Index(None, template_events.c.template_name, template_events.c.position)

template_splits: Final = Table(
    "template_splits",
    metadata,
    Column("split_id", String(36), primary_key=True),
    Column("template_name", Text, nullable=False),
    Column("candidate_version", Integer, nullable=False),
    Column("percent", Integer, nullable=False),
    Column("started_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("outcome", Text),
    CheckConstraint("percent BETWEEN 1 AND 99", name="percent"),
    CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended"),
)

Index(
    "uq_template_splits_running",
    template_splits.c.template_name,
    unique=True,
    sqlite_where=text("ended_at IS NULL"),
    postgresql_where=text("ended_at IS NULL"),
)

# Who serves what; a row per gateway process, removed when it stops.
gateways: Final = Table(
    "gateways",
    metadata,
    Column("gateway_id", String(36), primary_key=True),
    Column("name", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("active_sha256", String(64), nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
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
    Column("template_split", Text),
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
    # JSON: each step from the model's text to the answer, with salted digests before and after.
    Column("output_steps", Text),
    # The row's place in the chain of the process that committed it; see ``wire.audit_chain``.
    # NULL in rows from before there was a chain.
    Column("chain_id", String(36)),
    Column("seq", BigInteger),
    Column("prev_hash", String(64)),
    Column("group_end", BigInteger),
    Column("row_hash", String(64)),
    # In the last row of a group only: the key's id and its signature over the chain's head.
    Column("signing_key_id", String(16)),
    Column("head_signature", Text),
    UniqueConstraint("request_id"),
)

Index(None, enhancement_logs.c.created_at)
Index(
    "uq_enhancement_logs_chain",
    enhancement_logs.c.chain_id,
    enhancement_logs.c.seq,
    unique=True,
)
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

# Append-only. Each names the heads that moved since the one before it.
audit_checkpoints: Final = Table(
    "audit_checkpoints",
    metadata,
    # 1, 2, 3 … over all processes: a gap is a checkpoint that was deleted.
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("created_at", UtcDateTime, nullable=False),
    # The canonical JSON that was signed, byte for byte.
    Column("body", Text, nullable=False),
    Column("body_sha256", String(64), nullable=False),
    Column("signing_key_id", String(16), nullable=False),
    Column("signature", Text, nullable=False),
)

# Public keys that have signed something here, so that signatures can be checked for ever. A
# worker's and a gateway's alike; the private halves are in files of their processes.
signing_keys: Final = Table(
    "signing_keys",
    metadata,
    Column("public_key", String(64), primary_key=True),
    Column("key_id", String(16), nullable=False),
    Column("role", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("not_before", Text, nullable=False),
    Column("endorsed_by", String(64)),
    Column("endorsement", Text),
    Column("first_seen_at", UtcDateTime, nullable=False),
    CheckConstraint("role IN ('gateway', 'worker')", name="role"),
)

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
