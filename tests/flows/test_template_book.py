"""The book in a gateway: what it reads, what it serves, what it confirms and keeps."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pytest
from structlog.testing import capture_logs

from onbook.adapters.memory.clock import FixedClock
from onbook.adapters.memory.templates import MemorySnapshots
from onbook.domain.enhancement import Caller
from onbook.domain.errors import DatabaseUnavailable, InvalidPayload, TemplateNotFound
from onbook.domain.template_history import ActiveSplit, TemplateSplit
from onbook.domain.templates import ResolvedTemplate, Template, TemplateKey, checked
from onbook.flows.resolve_template import TemplateBook
from onbook.ports.stores import PinnedTemplate, StoreUnavailable, TemplateChanges

KEY = TemplateKey("m", "enhancement", "sfw", "sdxl")
ALICE = Caller(key_id="alice", scopes=frozenset({"enhance"}))
EDITOR = Caller(key_id="editor", scopes=frozenset({"templates:edit"}))


def template(name: str = "one", version: int = 1, **options: object) -> Template:
    values: dict[str, object] = {
        "template_name": name,
        "version": version,
        "model_type": "m",
        "use_case": "enhancement",
        "content_mode": "sfw",
        "target": "sdxl",
        "system_prompt": f"Version {version} of {name}.",
        "token_limit": 75,
        "token_unit": "clip",
        "max_tokens": 200,
        **options,
    }
    return checked(Template(**values))  # type: ignore[arg-type]  # the fields are given by name


def split_of(live: Template, percent: int, **options: object) -> ActiveSplit:
    candidate = template(live.template_name, live.version + 1, **options)
    return ActiveSplit(
        TemplateSplit(
            split_id="s",
            template_name=live.template_name,
            candidate_version=candidate.version,
            percent=percent,
            started_by="a",
            reason="r",
            started_at=FixedClock().now(),
        ),
        candidate,
    )


class ScriptedStore:
    """Answers with the changes that the test has put there, and notes what was asked."""

    def __init__(self, *templates: Template) -> None:
        self.now = TemplateChanges(epoch=1, full=True, active=templates)
        self.part: TemplateChanges | None = None
        self.versions: dict[tuple[str, int], PinnedTemplate] = {}
        self.asked: list[int | str | None] = []
        self.reports: list[tuple[str, str, int, str]] = []
        self.gone: list[str] = []
        self.away = False

    def change(self, *active: Template, gone: Sequence[str] = (), **options: object) -> None:
        kept = {
            item.template_name: item
            for item in (*self.now.active, *active)
            if item.template_name not in gone
        }
        epoch = self.now.epoch + 1
        self.now = TemplateChanges(
            epoch=epoch,
            full=True,
            active=tuple(kept.values()),
            **options,  # type: ignore[arg-type]  # the fields are given by name
        )
        self.part = replace(self.now, full=False, active=active, gone=gone)

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    async def epoch(self) -> int:
        self._check()
        return self.now.epoch

    async def changes(self, since: int | None) -> TemplateChanges:
        self._check()
        self.asked.append(since)
        if since is None or self.part is None or since > self.now.epoch:
            return self.now
        return self.part

    async def changed(self, timeout_s: float) -> None:
        raise AssertionError

    async def pinned(self, template_name: str, version: int) -> PinnedTemplate | None:
        self._check()
        self.asked.append(f"{template_name}@{version}")
        return self.versions.get((template_name, version))

    async def seed(self, templates: Sequence[Template], *, at: datetime) -> int:
        raise AssertionError

    async def acknowledge(
        self, gateway_id: str, *, name: str, epoch: int, active_sha256: str
    ) -> None:
        self._check()
        self.reports.append((gateway_id, name, epoch, active_sha256))

    async def forget(self, gateway_id: str) -> None:
        self._check()
        self.gone.append(gateway_id)

    async def close(self) -> None:
        pass


def book_of(
    store: ScriptedStore,
    clock: FixedClock | None = None,
    snapshots: MemorySnapshots | None = None,
    packaged: Sequence[Template] = (),
) -> TemplateBook:
    return TemplateBook(
        store,
        snapshots or MemorySnapshots(),
        packaged,
        clock or FixedClock(),
        gateway_id="g1",
        gateway_name="gateway one",
    )


async def test_an_edit_is_read_by_itself_and_served() -> None:
    store = ScriptedStore(template("one"), template("two", target="wan"))
    book = book_of(store)
    assert await book.refresh() is True
    assert await book.refresh() is False
    store.change(template("one", 2))
    assert await book.refresh() is True
    assert store.asked == [None, 1]
    assert book.resolve(KEY).template.version == 2
    assert book.resolve(replace(KEY, target="wan")).template.template_name == "two"
    store.change(gone=["one"])
    await book.refresh()
    assert store.asked == [None, 1, 2]
    with pytest.raises(TemplateNotFound):
        book.named("one", "sfw", ["enhancement"])
    assert book.state().templates == 1


async def test_everything_is_read_again_after_five_minutes_an_outage_and_on_demand() -> None:
    clock, store = FixedClock(), ScriptedStore(template())
    book = book_of(store, clock)
    await book.refresh()
    clock.advance(299)
    await book.refresh()
    assert store.asked == [None]
    # Something that no epoch tells of.
    store.now = replace(store.now, active=(template(version=7),))
    clock.advance(1)
    assert await book.refresh() is True
    assert store.asked == [None, None]
    assert book.resolve(KEY).template.version == 7
    assert await book.refresh(full=True) is False
    assert store.asked == [None, None, None]
    store.away = True
    await book.refresh()
    store.away = False
    await book.refresh()
    assert store.asked == [None, None, None, None]


async def test_a_restored_backup_with_an_older_epoch_is_taken_over() -> None:
    store = ScriptedStore(template(version=5))
    store.now = replace(store.now, epoch=9)
    book = book_of(store)
    await book.refresh()
    store.now = TemplateChanges(epoch=4, full=True, active=(template(version=3),))
    assert await book.refresh() is True
    assert book.resolve(KEY).template.version == 3
    assert book.state().epoch == 4


async def test_only_a_read_that_succeeded_confirms() -> None:
    clock, store = FixedClock(), ScriptedStore(template())
    book = book_of(store, clock)
    await book.refresh()
    clock.advance(10)
    assert book.state().age_seconds == 10
    store.away = True
    assert await book.refresh() is False
    away = book.resolve(KEY)
    assert (away.source, away.fallback_level, away.age_seconds) == ("system_cache", 1, 10)
    assert "10 s old" in away.warnings[0]
    assert book.state().reachable is False
    store.away = False
    await book.refresh()
    back = book.resolve(KEY)
    assert (back.source, back.age_seconds, back.warnings) == ("database", 0, ())
    assert book.state().reachable is True


async def test_the_age_counts_from_the_beginning_of_the_read() -> None:
    clock = FixedClock()

    class Slow(ScriptedStore):
        async def changes(self, since: int | None) -> TemplateChanges:
            clock.advance(3)
            return await super().changes(since)

    book = book_of(Slow(template()), clock)
    await book.refresh()
    assert book.state().age_seconds == 3


async def test_a_change_is_acknowledged_and_a_heartbeat_repeats_it() -> None:
    store = ScriptedStore(template())
    book = book_of(store)
    await book.acknowledge()
    assert store.reports == []
    await book.refresh()
    first = book.state().active_sha256
    assert store.reports == [("g1", "gateway one", 1, first)]
    await book.refresh()
    assert len(store.reports) == 1
    await book.acknowledge()
    assert store.reports[1] == store.reports[0]
    store.change(template(version=2))
    await book.refresh()
    assert store.reports[2][2] == 2
    assert store.reports[2][3] == book.state().active_sha256 != first
    store.away = True
    await book.refresh()
    await book.acknowledge()
    store.away = False
    await book.acknowledge()
    assert len(store.reports) == 3, "what the database does not confirm is not acknowledged"
    await book.forget()
    assert store.gone == ["g1"]


async def test_a_store_that_goes_away_between_two_words_stops_nothing() -> None:
    class Mute(ScriptedStore):
        async def acknowledge(
            self, gateway_id: str, *, name: str, epoch: int, active_sha256: str
        ) -> None:
            raise StoreUnavailable("away")

        async def forget(self, gateway_id: str) -> None:
            raise StoreUnavailable("away")

    book = book_of(Mute(template()))
    assert await book.refresh() is True
    await book.forget()
    assert book.resolve(KEY).source == "database"


async def test_the_hash_names_the_served_set_whichever_way_it_came() -> None:
    one, two = template("one"), template("two", target="wan")
    store = ScriptedStore(one, two)
    book = book_of(store)
    await book.refresh()
    before = book.active_sha256()
    store.change(template("one", 2), template("three", target=None))
    await book.refresh()
    changed = book.active_sha256()
    other = book_of(ScriptedStore(template("three", target=None), two, template("one", 2)))
    await other.refresh()
    assert changed == other.active_sha256() != before
    store.change(one, gone=["three"])
    await book.refresh()
    assert book.active_sha256() == before
    running = split_of(one, 10)
    store.change(splits=(running,))
    await book.refresh()
    with_split = book.active_sha256()
    store.change(splits=(replace(running, split=replace(running.split, percent=11)),))
    await book.refresh()
    assert len({before, changed, with_split, book.active_sha256()}) == 4


async def test_a_split_divides_callers_and_says_so() -> None:
    live = template()
    store = ScriptedStore(live)
    store.change(splits=(split_of(live, 50),))
    book = book_of(store)
    await book.refresh()
    callers = [Caller(f"key {n}", frozenset(), "u") for n in range(40)]
    found = [book.resolve(KEY, caller=caller) for caller in callers]
    assert [item.split for item in found] == [
        book.named("one", "sfw", ["enhancement"], caller=caller).split for caller in callers
    ]
    arms = {item.template.version: item.split and item.split.arm for item in found}
    assert arms == {1: "current", 2: "candidate"}
    assert {item.split.percent for item in found if item.split} == {50}
    assert {item.split.candidate_version for item in found if item.split} == {2}
    # Whoever is nobody in particular, and whoever names a version, is not divided.
    assert book.resolve(KEY).split is None
    pinned = await book.pinned("one", 1, "sfw", ["enhancement"], caller=callers[0])
    assert (pinned.template.version, pinned.split) == (1, None)
    store.change()
    await book.refresh()
    ended = [book.resolve(KEY, caller=caller) for caller in callers]
    assert {(item.template.version, item.split) for item in ended} == {(1, None)}


async def test_a_split_never_crosses_content_modes() -> None:
    live = template()
    store = ScriptedStore(live)
    store.change(splits=(split_of(live, 99, content_mode="nsfw"),))
    book = book_of(store)
    await book.refresh()
    found = [book.resolve(KEY, caller=Caller(f"k{n}", frozenset())) for n in range(20)]
    assert {(item.template.content_mode, item.split) for item in found} == {("sfw", None)}


async def test_a_broken_live_version_is_told_with_every_answer_until_it_is_mended() -> None:
    store = ScriptedStore(template(version=3))
    store.change(template(version=3), stale={"one": 4})
    book = book_of(store)
    await book.refresh()
    assert book.resolve(KEY).warnings == ("Version 4 of one breaks a rule; version 3 was used.",)
    assert book.state().stale == 1
    store.change(template("two", target="wan"))
    await book.refresh()
    assert book.resolve(KEY).warnings, "an edit of another template mends nothing"
    store.change(template(version=5))
    await book.refresh()
    assert book.resolve(KEY).warnings == ()
    assert book.state().stale == 0


async def test_a_pinned_version_is_read_once() -> None:
    store = ScriptedStore(template(version=3))
    old = template(version=1)
    store.versions["one", 1] = PinnedTemplate(old, ever_live=True)
    book = book_of(store)
    await book.refresh()
    first = await book.pinned("one", 1, "sfw", ["enhancement"])
    again = await book.pinned("one", 1, "sfw", ["enhancement"])
    assert (first.template, first.cache_hit, again.cache_hit) == (old, False, True)
    assert (first.source, first.fallback_level) == ("database", 0)
    live = await book.pinned("one", 3, "sfw", ["enhancement"])
    assert live.template.version == 3
    assert store.asked == [None, "one@1"]
    store.away = True
    await book.refresh()
    away = await book.pinned("one", 1, "sfw", ["enhancement"])
    assert (away.template, away.source, away.fallback_level) == (old, "system_cache", 1)
    assert away.warnings
    with pytest.raises(DatabaseUnavailable):
        await book.pinned("one", 2, "sfw", ["enhancement"])


async def test_of_pinned_versions_the_least_used_is_forgotten() -> None:
    store = ScriptedStore(template())
    for version in range(2, 1004):
        store.versions["one", version] = PinnedTemplate(template(version=version), ever_live=True)
    book = book_of(store)
    await book.refresh()
    for version in range(2, 1002):
        await book.pinned("one", version, "sfw", ["enhancement"])
    await book.pinned("one", 2, "sfw", ["enhancement"])
    await book.pinned("one", 1002, "sfw", ["enhancement"])
    store.asked.clear()
    await book.pinned("one", 2, "sfw", ["enhancement"])
    await book.pinned("one", 3, "sfw", ["enhancement"])
    assert store.asked == ["one@3"]


async def test_a_draft_is_for_its_editors_only_and_never_kept() -> None:
    store = ScriptedStore(template())
    store.versions["one", 2] = PinnedTemplate(template(version=2), ever_live=False)
    book = book_of(store)
    await book.refresh()
    with pytest.raises(TemplateNotFound):
        await book.pinned("one", 2, "sfw", ["enhancement"], caller=ALICE)
    with pytest.raises(TemplateNotFound):
        await book.pinned("one", 2, "sfw", ["enhancement"])
    for _ in range(2):
        draft = await book.pinned("one", 2, "sfw", ["enhancement"], caller=EDITOR)
        assert (draft.template.version, draft.cache_hit) == (2, False)
    with pytest.raises(TemplateNotFound):
        await book.pinned("one", 2, "sfw", ["enhancement"], caller=ALICE)
    with pytest.raises(TemplateNotFound):
        await book.pinned("one", 9, "sfw", ["enhancement"], caller=EDITOR)


@pytest.mark.parametrize(("mode", "use_case"), [("nsfw", "enhancement"), ("sfw", "chat")])
async def test_a_pinned_version_serves_its_mode_and_use_case_only(mode: str, use_case: str) -> None:
    store = ScriptedStore(template(version=3))
    store.versions["one", 1] = PinnedTemplate(template(version=1), ever_live=True)
    book = book_of(store)
    await book.refresh()
    for version in (1, 3):
        with pytest.raises(InvalidPayload):
            await book.pinned("one", version, mode, [use_case])  # type: ignore[arg-type,list-item]  # both are members of the literals


async def test_the_snapshot_of_a_small_set_follows_each_change() -> None:
    snapshots, store = MemorySnapshots(), ScriptedStore(template())
    book = book_of(store, snapshots=snapshots)
    await book.refresh()
    store.change(template(version=2))
    await book.refresh()
    last = snapshots.load()
    assert last is not None
    assert [item.version for item in last[0]] == [2]


async def test_what_was_put_out_of_service_stays_out_in_an_outage() -> None:
    snapshots, store = MemorySnapshots(), ScriptedStore(template())
    book = book_of(store, snapshots=snapshots)
    await book.refresh()
    store.change(gone=["one"])
    await book.refresh()
    store.away = True
    later = book_of(store, snapshots=snapshots, packaged=[template("packaged")])
    for _ in range(2):
        await later.refresh()
        found, state = later.resolve(KEY), later.state()
        assert (found.template.template_name, found.fallback_level) == ("packaged", 2)
        assert (state.source, state.templates, state.reachable) == ("system_cache", 0, False)
        assert state.good_at is not None
        with pytest.raises(TemplateNotFound):
            later.named("one", "sfw", ["enhancement"])


@pytest.mark.parametrize("templates", [1, 1001])
async def test_a_snapshot_that_fails_is_logged_and_stops_nothing(templates: int) -> None:
    class Failing(MemorySnapshots):
        def save(self, templates: Sequence[Template], *, at: datetime) -> None:
            raise RuntimeError("with the text of a prompt")

    store = ScriptedStore(*(template(f"t{n}", model_type=f"m{n}") for n in range(templates)))
    book = book_of(store, snapshots=Failing())
    with capture_logs() as logs:
        assert await book.refresh() is True
        await book.forget()
    assert [entry["event"] for entry in logs] == ["snapshot_not_saved"]
    assert logs[0]["error"] == "RuntimeError"
    assert store.gone == ["g1"]


async def test_a_large_set_is_kept_once_a_second_and_its_last_state_always() -> None:
    saved: list[int] = []

    class Counting(MemorySnapshots):
        def save(self, templates: Sequence[Template], *, at: datetime) -> None:
            saved.append(max(item.version for item in templates))
            super().save(templates, at=at)

    async def settle() -> None:
        while book._keeper._writing is not None:
            await asyncio.wait([book._keeper._writing])

    many = [template(f"t{n:04d}", model_type=f"m{n}") for n in range(1001)]
    clock, store = FixedClock(), ScriptedStore(*many)
    book = book_of(store, clock, Counting())
    await book.refresh()
    await settle()
    assert saved == [1]
    for version in (2, 3):
        store.change(template("t0000", version, model_type="m0"))
        await book.refresh()
        await settle()
    assert saved == [1]
    clock.advance(1)
    await book.refresh()
    await settle()
    assert saved == [1, 3]
    store.change(template("t0000", 4, model_type="m0"))
    await book.refresh()
    await settle()
    assert saved == [1, 3]
    await book.forget()
    assert saved == [1, 3, 4]


async def test_without_a_database_the_snapshot_serves_before_the_packaged_set() -> None:
    clock, snapshots = FixedClock(), MemorySnapshots()
    snapshots.save([template(version=6)], at=clock.now())
    clock.advance(60)
    store = ScriptedStore()
    store.away = True
    book = book_of(store, clock, snapshots, packaged=[template("packaged")])
    assert await book.refresh() is True
    found = book.resolve(KEY)
    assert (found.template.version, found.fallback_level, found.age_seconds) == (6, 1, 60)
    bare = book_of(store, clock, MemorySnapshots(), packaged=[template("packaged")])
    await bare.refresh()
    assert bare.resolve(KEY).fallback_level == 2


async def test_selection_follows_the_documented_order_and_stays_in_its_mode() -> None:
    exact = template("exact")
    other = template("other", model_type="x")
    universal = template("universal", target=None)
    stranger = template("stranger", model_type="x", target=None)
    nsfw = template("nsfw", content_mode="nsfw", target=None)
    store = ScriptedStore(nsfw, stranger, universal, other, exact)
    book = book_of(store, packaged=[template("packaged", target=None)])
    await book.refresh()

    def serves(key: TemplateKey = KEY) -> tuple[str, int]:
        found: ResolvedTemplate = book.resolve(key)
        return found.template.template_name, len(found.warnings)

    order = []
    for name in ("exact", "other", "universal", "stranger"):
        order.append(serves())
        store.change(gone=[name])
        await book.refresh()
    assert order == [("exact", 0), ("other", 1), ("universal", 0), ("stranger", 1)]
    assert serves() == ("packaged", 1)
    assert serves(replace(KEY, content_mode="nsfw")) == ("nsfw", 0)


async def test_of_two_for_one_place_the_first_by_name_serves_whatever_the_order() -> None:
    store = ScriptedStore(template("b", model_type="x"), template("c", model_type="y"))
    book = book_of(store)
    await book.refresh()
    assert book.resolve(KEY).template.template_name == "b"
    store.change(template("a", model_type="z"))
    await book.refresh()
    assert book.resolve(KEY).template.template_name == "a"
    assert book.model_types() == {"qwen_instruct", "qwen_base", "x", "y", "z"}
    store.change(gone=["a"])
    await book.refresh()
    assert book.resolve(KEY).template.template_name == "b"
    # A template that moves to another place leaves its old one.
    store.change(template("b", 2, model_type="x", target="wan"))
    await book.refresh()
    assert book.resolve(KEY).template.template_name == "c"
    assert book.model_types() == {"qwen_instruct", "qwen_base", "x", "y"}
    assert book.targets() == {"sdxl", "wan"}


async def test_the_first_use_after_a_change_is_no_cache_hit() -> None:
    two = template("two", target="wan")
    store = ScriptedStore(template("one"), two)
    book = book_of(store)
    await book.refresh()
    wan = replace(KEY, target="wan")
    assert [book.resolve(key).cache_hit for key in (KEY, KEY, wan, wan)] == [False, True] * 2
    store.change(template("one", 2))
    await book.refresh()
    assert [book.resolve(key).cache_hit for key in (KEY, wan)] == [False, True]
    # The very same template, out of service and back.
    store.change(gone=["two"])
    await book.refresh()
    store.change(two)
    await book.refresh()
    assert [book.resolve(key).cache_hit for key in (KEY, wan)] == [True, False]
