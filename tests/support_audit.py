"""A small audit log that is sound, in memory or in a database, and ways to tamper with it."""

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.adapters.chaining import Chain
from onbook.adapters.database.audit_trail import SqlAuditTrail
from onbook.adapters.database.engine import create_engine, writer
from onbook.adapters.database.log_rows import (
    CHAIN_COLUMNS,
    ROW_COLUMNS,
    TEXT_COLUMNS,
    audited_content,
    content_digest,
    row_values,
)
from onbook.adapters.database.postgres_url import connect_arguments, is_postgres
from onbook.adapters.database.sqlite_file import sqlite_path
from onbook.adapters.database.tables import enhancement_logs, enhancement_texts
from onbook.adapters.database.template_store import SqlTemplateStore
from onbook.adapters.files.packaged import packaged_templates
from onbook.adapters.memory.audit_trail import MemoryAuditTrail
from onbook.adapters.memory.clock import FixedClock
from onbook.domain.templates import Template, content_mapping
from onbook.flows.audit_findings import AuditSummary, Finding, TrustRoots
from onbook.flows.checkpoints import write_checkpoint
from onbook.flows.verify_audit import verify_audit
from onbook.ports.audit import AuditedRow, SigningKey, StoredCheckpoint, TemplateEvidence
from onbook.ports.stores import EnhancementRow, EnhancementTexts
from onbook.wire.canonical import canonical_json, sha256_of, sha256_of_text
from onbook.wire.receipt import EffectiveSampling, Receipt
from onbook.wire.signing import KeyRing, new_ring

AT = datetime(2026, 11, 23, 9, 0, 0, 250, tzinfo=UTC)
GUARDED = ("enhancement_logs", "audit_checkpoints", "signing_keys", "prompt_template_versions")
_SAMPLING = EffectiveSampling(
    max_tokens=200,
    temperature=0.5,
    top_p=0.9,
    top_k=0,
    min_p=0.0,
    repetition_penalty=1.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    dry_multiplier=0.0,
    seed=7,
    stop=[],
    grammar_sha256=None,
)

Request = tuple[EnhancementRow, EnhancementTexts]


def ring(prefix: str, number: int = 1) -> KeyRing:
    """Return the ring of a gateway or worker that is the same in every run."""
    raw = hashlib.sha256(f"{prefix} {number}".encode()).digest()
    return new_ring(prefix, at=AT, key=Ed25519PrivateKey.from_private_bytes(raw))


GATEWAY, WORKER, STRANGER = ring("gateway"), ring("worker"), ring("stranger")
TEMPLATE: Template = packaged_templates()[0]


def request(number: int, **changes: object) -> Request:
    """Return a request whose digests and receipt are right."""
    request_id = str(UUID(int=number << 20, version=4))
    salt, at = f"{number:032x}", AT + timedelta(seconds=number)
    messages = [{"role": "user", "content": f"kite {number}"}]
    raw, enhanced = f"A kite, number {number}.", f"a kite number {number}"
    signer = WORKER.signer(AT)
    receipt = Receipt(
        receipt_id=f"receipt-{number}",
        worker_id=WORKER.owner,
        issued_at=at.isoformat(),
        request_sha256=sha256_of({"n": number}),
        nonce=f"{number:032x}",
        rendering="chatml",
        verification="token_ids",
        prompt_tokens=12,
        token_ids_sha256="e" * 64,
        chat_template_sha256=None,
        model_sha256="f" * 64,
        sampling=_SAMPLING,
        added_text="",
        finish_reason="stop",
        output_sha256=sha256_of_text(raw),
        key_id=signer.key_id,
    )
    body = msgspec.to_builtins(receipt)
    del body["signature"]
    receipt = msgspec.structs.replace(receipt, signature=signer.sign(canonical_json(body)))
    salted = [
        hashlib.sha256(bytes.fromhex(salt) + text.encode()).hexdigest()
        for text in (f"kite {number}", enhanced, raw)
    ]
    row = EnhancementRow(
        id=str(UUID(int=(number << 20) + 2, version=4)),
        request_id=request_id,
        created_at=at,
        function="enhance-prompt",
        caller="key-1",
        user_id="user-1",
        job_type="sdxl_image_high",
        template_name=TEMPLATE.template_name,
        template_version=TEMPLATE.version,
        template_sha256=TEMPLATE.content_sha256,
        template_source="database",
        content_mode="sfw",
        target="sdxl",
        model_type="qwen_instruct",
        model_used="qwen",
        worker_id=WORKER.owner,
        strategy="template",
        fallback_level=0,
        cache_hit=True,
        attempts=1,
        execution_time_ms=12.0 if number % 2 else 12.375,
        worker_response_time_ms=10.5,
        token_count=70,
        token_limit=75,
        tokens_before_compression=80,
        tokenizer="clip",
        compression_applied=False,
        finish_reason="stop",
        integrity_status="verified",
        prompt_sha256=salted[0],
        messages_sha256=sha256_of(messages),
        output_sha256=salted[1],
        seed=2**60 + number if number % 3 == 0 else number,
        receipt=msgspec.json.encode(receipt).decode(),
        decision='{"mode":"sfw"}',
        output_steps=json.dumps(
            [{"step": "clean", "before_sha256": salted[2], "after_sha256": salted[1]}]
        ),
    )
    texts = EnhancementTexts(
        request_id=request_id,
        created_at=at,
        salt=salt,
        original=f"kite {number}",
        messages=json.dumps(messages),
        raw_output=raw,
        enhanced=enhanced,
    )
    return replace(row, **changes), texts  # type: ignore[arg-type]  # a test's own field names


@dataclass
class Log:
    """An audit log under test: how it is read, and how rows get into it."""

    trail: MemoryAuditTrail | SqlAuditTrail
    url: str | None = None
    engine: AsyncEngine | None = None
    chains: list[str] = field(default_factory=list)
    _writers: dict[str, Chain] = field(default_factory=dict)

    def chain(self, signer: KeyRing | None = GATEWAY) -> str:
        """Begin a chain; return its id."""
        made = Chain(None if signer is None else lambda: signer.signer(AT))
        self._writers[made.chain_id] = made
        self.chains.append(made.chain_id)
        return made.chain_id

    async def group(self, chain_id: str, requests: Sequence[Request]) -> None:
        """Commit one group, as the gateway's log does."""
        chain = self._writers[chain_id]
        extension = chain.extension([content_digest(row_values(row)) for row, _ in requests])
        for (row, texts), place in zip(requests, extension.places, strict=True):
            if isinstance(self.trail, MemoryAuditTrail):
                self.trail.stored.append(audited(row, place))
                self.trail.kept_texts[row.request_id] = texts
        if self.engine is not None:
            async with writer(self.engine).begin() as connection:
                rows = [
                    dict(zip(ROW_COLUMNS + CHAIN_COLUMNS, row_values(row) + place, strict=True))
                    for (row, _), place in zip(requests, extension.places, strict=True)
                ]
                await connection.execute(insert(enhancement_logs), rows)
                await connection.execute(
                    insert(enhancement_texts),
                    [
                        {name: getattr(texts, name) for name in TEXT_COLUMNS}
                        for _, texts in requests
                    ],
                )
        chain.committed(extension.head)

    async def checkpoint(self, at: datetime = AT, by: KeyRing = GATEWAY) -> StoredCheckpoint | None:
        return await write_checkpoint(self.trail, by.signer(AT), by.owner, FixedClock(at))

    async def check(self, roots: TrustRoots | None = None) -> tuple[list[Finding], AuditSummary]:
        found: list[Finding] = []
        summary = await verify_audit(self.trail, ROOTS if roots is None else roots, found.append)
        assert sum(summary.findings.values()) == len(found)
        return found, summary


def own_keys(*rings: KeyRing) -> list[SigningKey]:
    return [
        SigningKey(
            role="worker" if item.owner.startswith("worker") else "gateway",
            owner=item.owner,
            published=published,
        )
        for item in rings
        for published in item.published
    ]


ROOTS = TrustRoots(published=own_keys(GATEWAY, WORKER))


def audited(row: EnhancementRow, place: Sequence[object]) -> AuditedRow:
    return AuditedRow(
        content=audited_content(row_values(row)),
        **dict(zip(CHAIN_COLUMNS, place, strict=True)),  # type: ignore[arg-type]  # as the columns are
    )


def memory_log() -> Log:
    trail = MemoryAuditTrail()
    trail.templates[TEMPLATE.template_name, TEMPLATE.version] = TemplateEvidence(
        content=content_mapping(TEMPLATE),
        content_sha256=TEMPLATE.content_sha256,
        event={
            "event_id": "event-1",
            "created_at": AT.isoformat(),
            "template_name": TEMPLATE.template_name,
            "action": "created",
            "actor": "seed",
            "reason": None,
            "from_version": None,
            "to_version": TEMPLATE.version,
        },
    )
    return Log(trail)


async def database_log(url: str) -> Log:
    """Return the log in a database that has the schema; dispose of ``engine`` afterwards."""
    engine = create_engine(url)
    store = SqlTemplateStore(engine)
    await store.seed(packaged_templates(), at=AT)
    await store.close()
    return Log(SqlAuditTrail(engine), url, engine)


async def filled(log: Log) -> Log:
    """Two chains of groups of 1, 4, 3 and of 2, 2 rows, with a checkpoint after some and all."""
    await log.trail.add_signing_keys(own_keys(GATEWAY, WORKER), at=AT)
    first, second = log.chain(), log.chain()
    number = iter(range(1, 100))
    for chain_id, count in ((first, 1), (first, 4), (second, 2)):
        await log.group(chain_id, [request(next(number)) for _ in range(count)])
    await log.checkpoint(AT + timedelta(minutes=1))
    for chain_id, count in ((first, 3), (second, 2)):
        await log.group(chain_id, [request(next(number)) for _ in range(count)])
    await log.checkpoint(AT + timedelta(minutes=2))
    return log


def as_owner(url: str, *statements: str | tuple[str, Sequence[object]]) -> None:
    """Run statements as somebody who owns the tables does, past every trigger."""
    if is_postgres(url):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, _on_postgres(url, statements)).result()
        return
    with closing(sqlite3.connect(sqlite_path(url), isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for statement in statements:
            text, values = (statement, ()) if isinstance(statement, str) else statement
            connection.execute(text, values)


async def _on_postgres(url: str, statements: Sequence[str | tuple[str, Sequence[object]]]) -> None:
    connection = await asyncpg.connect(**connect_arguments(url))
    try:
        for statement in statements:
            text, values = (statement, ()) if isinstance(statement, str) else statement
            await connection.execute(text, *values)
    finally:
        await connection.close()


def open_up(url: str) -> None:
    """Take the guards of the record away, as an owner can: triggers and unique indexes."""
    if is_postgres(url):
        as_owner(url, *(f"ALTER TABLE {table} DISABLE TRIGGER ALL" for table in GUARDED))
        as_owner(
            url,
            "DROP INDEX uq_enhancement_logs_chain",
            "ALTER TABLE enhancement_logs DROP CONSTRAINT uq_enhancement_logs_request_id",
        )
        return
    with closing(sqlite3.connect(sqlite_path(url))) as connection:
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN (?, ?, ?, ?)",
            GUARDED,
        ).fetchall()
    as_owner(url, *(f"DROP TRIGGER {name}" for (name,) in names))
    as_owner(url, "DROP INDEX uq_enhancement_logs_chain")


def request_id(number: int) -> str:
    return request(number)[0].request_id


def edit_row(url: str, number: int, change: str, *values: object) -> None:
    """Change the row of a request of ``request``; ``change`` is SQL, with one placeholder each."""
    where = f"request_id = '{request_id(number)}'"
    as_owner(url, (f"UPDATE enhancement_logs SET {change} WHERE {where}", values))  # noqa: S608 - a test's own words
