"""Somebody who owns the database edits the record, past every trigger: each edit is named."""

import struct
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.database.audit_rows import STORED_COLUMNS
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.adapters.database.tables import (
    audit_checkpoints,
    enhancement_logs,
    enhancement_texts,
    prompt_template_versions,
    signing_keys,
)
from onbook.flows.audit_findings import Finding, TrustRoots
from support_audit import (
    AT,
    GATEWAY,
    TEMPLATE,
    WORKER,
    Log,
    as_owner,
    database_log,
    edit_row,
    filled,
    open_up,
    own_keys,
    request_id,
)

# The fourth row of the first chain, in the middle of its group, and the fifth, at its end.
MIDDLE, END = 4, 5
# What its owner's ring, or nothing that is signed, says of it: when the row was put there.
UNSIGNED = {"first_seen_at"}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    url = sqlite_url(tmp_path / "onbook.db")
    migrate(url)
    return url


@pytest.fixture
async def log(url: str) -> AsyncIterator[Log]:
    found = await filled(await database_log(url))
    open_up(url)
    yield found
    assert found.engine is not None
    await found.engine.dispose()


def flipped(value: object) -> object:
    """Return ``value`` with one bit changed; what is not there yet comes to be."""
    if value is None:
        return "?"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ 1
    if isinstance(value, float):
        (bits,) = struct.unpack("<q", struct.pack("<d", value))
        return struct.unpack("<d", struct.pack("<q", bits ^ 1))[0]
    if isinstance(value, datetime):
        return value + timedelta(microseconds=1)
    text = str(value)
    return text[:-1] + chr(ord(text[-1]) ^ 1)


async def stored(engine: AsyncEngine, number: int) -> dict[str, object]:
    async with engine.connect() as connection:
        found = await connection.execute(
            select(enhancement_logs).where(enhancement_logs.c.request_id == request_id(number))
        )
        return dict(found.mappings().one())


def placeholder(log: Log, name: str) -> str:
    return f"{name} = {'$1' if (log.url or '').startswith('postgres') else '?'}"


def raw(log: Log, value: object) -> object:
    """Return ``value`` as the driver takes it."""
    if isinstance(value, datetime) and not (log.url or "").startswith("postgres"):
        return value.isoformat(timespec="microseconds")
    return value


def names(found: list[Finding]) -> set[tuple[str, str | None]]:
    return {(item.kind, item.request_id) for item in found}


@pytest.mark.parametrize("number", [MIDDLE, END])
async def test_a_bit_in_any_column_of_a_row_names_the_row(log: Log, number: int) -> None:
    assert log.engine is not None
    assert log.url is not None
    before = await stored(log.engine, number)
    assert (await log.check())[0] == []
    for name in STORED_COLUMNS:
        value = flipped(before[name])
        edit_row(log.url, number, placeholder(log, name), raw(log, value))
        found, _ = await log.check()
        # Under a new request id it is the same row.
        wanted = str(value) if name == "request_id" else request_id(number)
        kinds = {kind for kind, which in names(found) if which == wanted}
        expected = {"row_changed"}
        if name in ("signing_key_id", "head_signature"):
            # Not hashed, but nothing in its place holds.
            expected = {"signature_invalid", "key_untrusted"}
        elif name == "seq":
            expected = {"row_changed", "row_reordered", "row_inserted"}
        assert kinds & expected, (name, found)
        # Neighbours are not accused.
        accused = {which for kind, which in names(found) if kind == "row_changed"}
        assert accused <= {wanted} or name == "seq", (name, found)
        if name == "request_id":
            change = f"UPDATE enhancement_logs SET request_id = '{request_id(number)}' "  # noqa: S608 - a test's own words
            as_owner(log.url, change + f"WHERE request_id = '{value}'")
        else:
            edit_row(log.url, number, placeholder(log, name), raw(log, before[name]))
    assert (await log.check())[0] == []


async def test_a_bit_in_any_column_of_a_checkpoint_names_it(log: Log) -> None:
    assert log.engine is not None
    assert log.url is not None
    async with log.engine.connect() as connection:
        rows = (await connection.execute(select(audit_checkpoints))).mappings().all()
    for row in rows:
        for column in audit_checkpoints.columns:
            value = flipped(row[column.name])
            # 1 becomes 0 and 2 becomes 3: never another's number.
            set_to(log, "audit_checkpoints", column.name, value, f"number = {row['number']}")
            found, _ = await log.check()
            number = value if column.name == "number" else row["number"]
            assert ("checkpoint_changed", str(number)) in {
                (item.kind, item.name) for item in found
            }, (column.name, found)
            where = f"number = {number}"
            set_to(log, "audit_checkpoints", column.name, row[column.name], where)
    assert (await log.check())[0] == []


async def test_a_bit_in_any_column_of_a_key_names_it(log: Log) -> None:
    assert log.engine is not None
    assert log.url is not None
    rotated = GATEWAY.rotated(not_before=AT + timedelta(days=1))
    await log.trail.add_signing_keys(own_keys(rotated), at=AT + timedelta(days=1))
    roots = TrustRoots(published=own_keys(rotated, WORKER))
    assert (await log.check(roots))[0] == []
    async with log.engine.connect() as connection:
        rows = (await connection.execute(select(signing_keys))).mappings().all()
    assert len(rows) == 3
    for row in rows:
        for name in signing_keys.columns.keys():  # noqa: SIM118 - not a mapping of names alone
            if name in UNSIGNED:
                continue
            value = flipped(row[name])
            if name == "role":
                value = "worker" if row["role"] == "gateway" else "gateway"
            where = f"public_key = '{row['public_key']}'"
            set_to(log, "signing_keys", name, value, where)
            found, _ = await log.check(roots)
            changed = {(item.kind, item.name) for item in found}
            key_id = value if name == "key_id" else row["key_id"]
            assert ("key_changed", key_id) in changed, (name, found)
            where = f"public_key = '{value if name == 'public_key' else row['public_key']}'"
            set_to(log, "signing_keys", name, row[name], where)
    assert (await log.check(roots))[0] == []


async def test_a_bit_in_any_text_names_the_row(log: Log) -> None:
    assert log.engine is not None
    assert log.url is not None
    async with log.engine.connect() as connection:
        row = (
            (
                await connection.execute(
                    select(enhancement_texts).where(
                        enhancement_texts.c.request_id == request_id(MIDDLE)
                    )
                )
            )
            .mappings()
            .one()
        )
    where = f"request_id = '{request_id(MIDDLE)}'"
    for name in ("salt", "original", "messages", "raw_output", "enhanced"):
        set_to(log, "enhancement_texts", name, flipped(row[name]), where)
        found, _ = await log.check()
        assert names(found) == {("text_digest_mismatch", request_id(MIDDLE))}, name
        assert str(row[name])[:6] not in " ".join(item.sentence for item in found)
        set_to(log, "enhancement_texts", name, row[name], where)
    as_owner(log.url, f"DELETE FROM enhancement_texts WHERE {where}")  # noqa: S608 - a test's own words
    found, summary = await log.check()
    assert found == []
    assert summary.texts == 11


async def test_a_changed_template_version_is_named(log: Log) -> None:
    assert log.engine is not None
    async with log.engine.connect() as connection:
        version = prompt_template_versions
        row = (
            (
                await connection.execute(
                    select(version).where(version.c.template_name == TEMPLATE.template_name)
                )
            )
            .mappings()
            .one()
        )
    where = f"template_name = '{TEMPLATE.template_name}'"
    changes = {
        "system_prompt": row["system_prompt"] + ".",
        "token_limit": row["token_limit"] ^ 1,
        "max_tokens": row["max_tokens"] ^ 1,
        "content_mode": "nsfw" if row["content_mode"] == "sfw" else "sfw",
        "model_type": flipped(row["model_type"]),
        "negative_prompt": flipped(row["negative_prompt"]),
        "content_sha256": flipped(row["content_sha256"]),
    }
    for name, value in changes.items():
        set_to(log, "prompt_template_versions", name, value, where)
        found, _ = await log.check()
        assert [(item.kind, item.name) for item in found] == [
            ("template_changed", f"{TEMPLATE.template_name}@{TEMPLATE.version}")
        ], name
        assert found[0].request_id is not None
        set_to(log, "prompt_template_versions", name, row[name], where)
    set_to(log, "prompt_template_versions", "version", 7, where)
    found, _ = await log.check()
    assert [item.kind for item in found] == ["template_missing"]


async def test_rows_that_came_past_the_log_are_named(log: Log) -> None:
    assert log.url is not None
    names_of = ", ".join(STORED_COLUMNS[2:-7])
    copy = (
        f"INSERT INTO enhancement_logs (id, request_id, {names_of}) "  # noqa: S608 - our own columns
        f"SELECT 'put in', 'put in', {names_of} FROM enhancement_logs "
        f"WHERE request_id = '{request_id(MIDDLE)}'"
    )
    as_owner(log.url, copy)
    found, summary = await log.check()
    assert names(found) == {("unchained_row", "put in")}
    assert (summary.rows, summary.rows_before_the_chain) == (12, 0)

    as_owner(
        log.url,
        "UPDATE enhancement_logs SET created_at = '2026-11-01T00:00:00.000000+00:00' "
        "WHERE request_id = 'put in'",
    )
    found, summary = await log.check()
    # It says that it is old, and the first checkpoint has counted those that are.
    assert [(item.kind, item.name, item.count) for item in found] == [("unchained_row", "1", 1)]
    assert summary.rows_before_the_chain == 1


def set_to(log: Log, table: str, name: str, value: object, where: str) -> None:
    assert log.url is not None
    change = f"UPDATE {table} SET {placeholder(log, name)} WHERE {where}"  # noqa: S608 - a test's own words
    as_owner(log.url, (change, [raw(log, value)]))
