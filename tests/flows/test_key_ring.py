import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from onbook.adapters.clock import SystemIds
from onbook.adapters.database.access_key_store import SqlAccessKeyStore
from onbook.adapters.database.engine import create_engine
from onbook.adapters.database.schema import migrate
from onbook.adapters.database.sqlite_file import sqlite_url
from onbook.adapters.files.key_snapshot import FileKeySnapshots
from onbook.domain.errors import AuthRequired, DatabaseUnavailable
from onbook.flows.access_keys import OUTAGE_S, KeyRing, bootstrap_access_key, issue_key
from onbook.ports.stores import AccessKey

PEPPER = b"p" * 32
BOOTSTRAP = "bootstrap-key-0123456789"


@dataclass
class Clock:
    """A clock that the test moves."""

    time: datetime = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
    seconds: float = 1000.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.seconds += seconds


@dataclass
class Keys:
    """A real key store on a file that the test takes away and puts back."""

    directory: Path
    store: SqlAccessKeyStore
    clock: Clock = field(default_factory=Clock)

    @property
    def file(self) -> Path:
        return self.directory / "keys.json"

    def ring(self, *, bootstrap: str | None = None) -> KeyRing:
        """Return the ring of a process that has only just started."""
        return KeyRing(
            self.store,
            pepper=PEPPER,
            clock=self.clock,
            snapshots=FileKeySnapshots(self.file, pepper=PEPPER),
            bootstrap=None
            if bootstrap is None
            else bootstrap_access_key(bootstrap, pepper=PEPPER, at=self.clock.now()),
        )

    async def issue(
        self, name: str, *scopes: str, hours: int | None = None
    ) -> tuple[str, AccessKey]:
        return await issue_key(
            name,
            scopes,
            store=self.store,
            pepper=PEPPER,
            clock=self.clock,
            ids=SystemIds(),
            expires_at=None if hours is None else self.clock.now() + timedelta(hours=hours),
        )

    def away(self) -> None:
        (self.directory / "onbook.db").rename(self.directory / "away.db")

    def back(self) -> None:
        (self.directory / "away.db").rename(self.directory / "onbook.db")


@asynccontextmanager
async def keys_in(directory: Path) -> AsyncIterator[Keys]:
    url = sqlite_url(directory / "onbook.db")
    migrate(url)
    engine = create_engine(url)
    try:
        yield Keys(directory, SqlAccessKeyStore(engine))
    finally:
        await engine.dispose()


async def test_the_caller_carries_the_name_of_its_key(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        plain, key = await keys.issue("front end", "enhance")
        caller = await keys.ring().authenticate(plain)
    assert (caller.name, caller.key_id, caller.scopes) == ("front end", key.key_id, key.scopes)


async def test_a_fresh_process_tells_keys_by_the_snapshot(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        plain, key = await keys.issue("front end", "enhance")
        await keys.ring().keep()
        keys.away()
        ring = keys.ring()
        caller = await ring.authenticate(plain)
        with pytest.raises(DatabaseUnavailable):
            await ring.authenticate("onb_unknown")
    assert (caller.name, caller.key_id, caller.scopes) == ("front end", key.key_id, key.scopes)


async def test_without_a_snapshot_nothing_is_known(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        plain, _ = await keys.issue("front end", "enhance")
        keys.away()
        with pytest.raises(DatabaseUnavailable):
            await keys.ring().authenticate(plain)


async def test_an_edited_snapshot_gives_nobody_more_rights(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        plain, _ = await keys.issue("front end", "enhance")
        await keys.ring().keep()
        keys.file.write_bytes(keys.file.read_bytes().replace(b'"enhance"', b'"admin"'))
        keys.away()
        with pytest.raises(DatabaseUnavailable):
            await keys.ring().authenticate(plain)


async def test_a_snapshot_that_is_too_old_is_not_believed(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        plain, _ = await keys.issue("front end", "enhance")
        await keys.ring().keep()
        keys.away()
        keys.clock.move(OUTAGE_S - 1)
        assert (await keys.ring().authenticate(plain)).name == "front end"
        keys.clock.move(2)
        with pytest.raises(DatabaseUnavailable):
            await keys.ring().authenticate(plain)
        # A clock that was set back makes it no better.
        keys.clock.time -= timedelta(seconds=2 * OUTAGE_S + 10)
        with pytest.raises(DatabaseUnavailable):
            await keys.ring().authenticate(plain)


async def test_memory_is_too_old_after_the_same_time(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        plain, _ = await keys.issue("front end", "enhance")
        ring = keys.ring()
        await ring.authenticate(plain)
        keys.away()
        keys.clock.move(OUTAGE_S - 1)
        assert (await ring.authenticate(plain)).name == "front end"
        keys.clock.move(2)
        with pytest.raises(DatabaseUnavailable):
            await ring.authenticate(plain)


async def test_expiry_and_revocation_hold_without_the_database(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        revoked, key = await keys.issue("revoked", "enhance")
        expiring, _ = await keys.issue("expiring", "enhance", hours=1)
        await keys.store.revoke(key.key_id, at=keys.clock.now())
        await keys.ring().keep()
        keys.away()
        ring = keys.ring()
        assert (await ring.authenticate(expiring)).name == "expiring"
        with pytest.raises(AuthRequired, match="revoked"):
            await ring.authenticate(revoked)
        keys.clock.move(3601)
        with pytest.raises(AuthRequired, match="expired"):
            await ring.authenticate(expiring)


async def test_a_revocation_that_only_the_whole_set_knows_of_counts(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        plain, key = await keys.issue("front end", "enhance")
        ring = keys.ring()
        await ring.authenticate(plain)
        keys.clock.move(60)
        await keys.store.revoke(key.key_id, at=keys.clock.now())
        await ring.keep()
        keys.away()
        with pytest.raises(AuthRequired):
            await ring.authenticate(plain)


async def test_a_key_newer_than_the_whole_set_works_on(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        await keys.issue("older", "enhance")
        ring = keys.ring()
        await ring.keep()
        keys.clock.move(1)
        plain, _ = await keys.issue("newer", "enhance")
        await ring.authenticate(plain)
        keys.away()
        keys.clock.move(60)
        assert (await ring.authenticate(plain)).name == "newer"


async def test_the_bootstrap_key_works_without_the_database_and_before_it_is_stored(
    tmp_path: Path,
) -> None:
    async with keys_in(tmp_path) as keys:
        ring = keys.ring(bootstrap=BOOTSTRAP)
        before = await ring.authenticate(BOOTSTRAP)
        keys.away()
        without = await keys.ring(bootstrap=BOOTSTRAP).authenticate(BOOTSTRAP)
        with pytest.raises(DatabaseUnavailable):
            await keys.ring().authenticate(BOOTSTRAP)
    assert before == without
    assert without.may("admin")


async def test_a_revoked_bootstrap_key_stays_revoked_without_the_database(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        key = bootstrap_access_key(BOOTSTRAP, pepper=PEPPER, at=keys.clock.now())
        await keys.store.add(key)
        await keys.store.revoke(key.key_id, at=keys.clock.now())
        await keys.ring().keep()
        with pytest.raises(AuthRequired):
            await keys.ring(bootstrap=BOOTSTRAP).authenticate(BOOTSTRAP)
        keys.away()
        with pytest.raises(AuthRequired):
            await keys.ring(bootstrap=BOOTSTRAP).authenticate(BOOTSTRAP)


async def test_the_file_is_rewritten_for_a_change_and_for_its_age_only(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        _, key = await keys.issue("front end", "enhance")
        ring = keys.ring()
        await ring.keep()
        first = keys.file.read_bytes()
        keys.clock.move(5)
        await keys.store.touch([key.key_id], at=keys.clock.now())
        await ring.keep()
        assert keys.file.read_bytes() == first
        await keys.store.revoke(key.key_id, at=keys.clock.now())
        await ring.keep()
        second = json.loads(keys.file.read_bytes().partition(b"\n")[2])
        assert second["keys"][0]["revoked_at"] is not None
        keys.clock.move(3600)
        await ring.keep()
        third = json.loads(keys.file.read_bytes().partition(b"\n")[2])
    assert third["saved_at"] > second["saved_at"]


async def test_an_empty_database_does_not_erase_what_is_kept(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        plain, _ = await keys.issue("front end", "enhance")
        await keys.ring().keep()
        for file in tmp_path.glob("onbook.db*"):
            file.unlink()
        migrate(sqlite_url(tmp_path / "onbook.db"))
        await keys.ring().keep()
        keys.away()
        assert (await keys.ring().authenticate(plain)).name == "front end"


class CountingStore(SqlAccessKeyStore):
    """Counts questions, and lets them wait."""

    asked = 0
    hangs: asyncio.Event | None = None

    async def by_hmac(self, key_hmac: str) -> AccessKey | None:
        self.asked += 1
        if self.hangs is not None:
            await self.hangs.wait()
        return await super().by_hmac(key_hmac)


async def test_a_database_that_is_away_is_not_asked_for_every_request(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        plain, _ = await keys.issue("front end", "enhance")
        keys.store = store = CountingStore(keys.store._engine)
        ring = keys.ring()
        await ring.keep()
        keys.away()
        for _ in range(10):
            assert (await ring.authenticate(plain)).name == "front end"
        assert store.asked == 1
        for _ in range(10):
            with pytest.raises(DatabaseUnavailable):
                await ring.authenticate("onb_unknown")
        assert store.asked == 1
        keys.clock.move(1.5)
        with pytest.raises(DatabaseUnavailable):
            await ring.authenticate("onb_unknown")
        assert store.asked == 2


async def test_a_database_that_is_back_is_believed_again(tmp_path: Path) -> None:
    async with keys_in(tmp_path) as keys:
        plain, key = await keys.issue("front end", "enhance")
        ring = keys.ring()
        await ring.keep()
        keys.away()
        await ring.authenticate(plain)
        keys.back()
        await keys.store.revoke(key.key_id, at=keys.clock.now())
        await ring.keep()
        with pytest.raises(AuthRequired):
            await ring.authenticate(plain)
        # It answers again, so an unknown key is unknown, not unchecked.
        with pytest.raises(AuthRequired):
            await ring.authenticate("onb_unknown")


async def test_a_known_caller_does_not_wait_for_a_database_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onbook.flows.access_keys._PATIENCE_S", 0.01)
    async with keys_in(tmp_path) as keys:
        plain, _ = await keys.issue("front end", "enhance")
        keys.store = store = CountingStore(keys.store._engine)
        ring = keys.ring()
        await ring.authenticate(plain)
        keys.clock.move(10)
        store.hangs = asyncio.Event()
        async with asyncio.timeout(30):
            assert (await ring.authenticate(plain)).name == "front end"
        assert store.asked == 2
        store.hangs.set()
        # What was asked ends by itself.
        await asyncio.gather(*ring._asking)
        assert not ring._asking
