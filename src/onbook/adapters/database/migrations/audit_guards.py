"""The triggers of revision 2026_11_24: what the record of requests refuses on either database."""

from collections.abc import Iterator, Sequence
from typing import Final

from onbook.adapters.database.migrations.book_rules import quoted

_SENTENCES: Final = {
    "enhancement_logs": (
        "a row of enhancement_logs is never changed or deleted; "
        "its texts in enhancement_texts may be deleted"
    ),
    "audit_checkpoints": "a checkpoint of the audit log is never changed or deleted",
    "signing_keys": "a signing key is never changed or deleted: what it signed is checked with it",
}

# On SQLite, INSERT OR REPLACE deletes rows without a word to the triggers of a DELETE.
_THERE: Final = {
    "enhancement_logs": ("id", "request_id", "chain_id, seq"),
    "audit_checkpoints": ("number",),
    "signing_keys": ("public_key",),
}


def create(dialect: str) -> Sequence[str]:
    """Return the statements that create the triggers; on Postgres they call ``onbook_refuse``."""
    return list(_sqlite() if dialect == "sqlite" else _postgres())


def drop(dialect: str) -> Sequence[str]:
    """Return the statements that remove them."""
    if dialect == "sqlite":
        return [
            f"DROP TRIGGER IF EXISTS {table}_refuse_{event}"
            for table in _SENTENCES
            for event in ("update", "delete", "replace")
        ]
    return [
        f"DROP TRIGGER IF EXISTS {table}_refuse_{event} ON {table}"
        for table in _SENTENCES
        for event in ("change", "truncate")
    ]


def _sqlite() -> Iterator[str]:
    for table, sentence in _SENTENCES.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, {quoted(sentence)}); END"
        for event in ("update", "delete"):
            yield (
                f"CREATE TRIGGER {table}_refuse_{event} BEFORE {event.upper()} ON {table} {refuse}"
            )
        there = " OR ".join(
            f"EXISTS (SELECT 1 FROM {table} WHERE ({names}) = ({_new(names)}))"  # noqa: S608 - the names above
            for names in _THERE[table]
        )
        yield (
            f"CREATE TRIGGER {table}_refuse_replace BEFORE INSERT ON {table} WHEN {there} {refuse}"
        )


def _postgres() -> Iterator[str]:
    for table, sentence in _SENTENCES.items():
        call = f"EXECUTE FUNCTION onbook_refuse({quoted(sentence)})"
        yield (
            f"CREATE TRIGGER {table}_refuse_change BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW {call}"
        )
        yield (
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT {call}"
        )


def _new(names: str) -> str:
    return ", ".join(f"NEW.{name}" for name in names.split(", "))
