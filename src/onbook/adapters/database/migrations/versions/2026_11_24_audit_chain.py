"""The chain of the audit log: each row's place in it, signed checkpoints, and the public keys."""

import sqlalchemy as sa
from alembic import op

from onbook.adapters.database.migrations import audit_guards
from onbook.adapters.database.types import UtcDateTime

revision = "2026_11_24_audit_chain"
down_revision = "2026_11_23_template_history"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in _columns():
        op.add_column("enhancement_logs", column)
    op.create_index(
        "uq_enhancement_logs_chain", "enhancement_logs", ["chain_id", "seq"], unique=True
    )
    _create_checkpoints()
    _create_keys()
    connection = op.get_bind()
    for statement in audit_guards.create(connection.dialect.name):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    connection = op.get_bind()
    for statement in audit_guards.drop(connection.dialect.name):
        connection.exec_driver_sql(statement)
    for table in ("signing_keys", "audit_checkpoints"):
        op.drop_table(table)
    op.drop_index("uq_enhancement_logs_chain", "enhancement_logs")
    for column in reversed(_columns()):
        op.drop_column("enhancement_logs", column.name)


def _columns() -> tuple[sa.Column[object], ...]:
    """Return what is NULL in the rows that are there: no place in a chain is made up for them."""
    return (
        sa.Column("output_steps", sa.Text),
        sa.Column("chain_id", sa.String(36)),
        sa.Column("seq", sa.BigInteger),
        sa.Column("prev_hash", sa.String(64)),
        sa.Column("group_end", sa.BigInteger),
        sa.Column("row_hash", sa.String(64)),
        sa.Column("signing_key_id", sa.String(16)),
        sa.Column("head_signature", sa.Text),
    )


def _create_checkpoints() -> None:
    op.create_table(
        "audit_checkpoints",
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("signing_key_id", sa.String(16), nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit_checkpoints"),
    )


def _create_keys() -> None:
    op.create_table(
        "signing_keys",
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("not_before", sa.Text, nullable=False),
        sa.Column("endorsed_by", sa.String(64)),
        sa.Column("endorsement", sa.Text),
        sa.Column("first_seen_at", UtcDateTime, nullable=False),
        sa.CheckConstraint("role IN ('gateway', 'worker')", name=op.f("ck_signing_keys_role")),
        sa.PrimaryKeyConstraint("public_key", name="pk_signing_keys"),
    )
