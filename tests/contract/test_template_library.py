"""What editors do with the book, on every adapter."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from onbook.domain.errors import TemplateNotFound
from onbook.domain.template_history import TemplateVersion
from onbook.domain.templates import (
    Example,
    Template,
    TemplateInvalid,
    TemplateSampling,
    content_sha256,
)
from onbook.ports.template_library import TemplateFilter
from support_books import AT, GATE, NAME, Book, book_on, template


@pytest.fixture
async def book(store_engine: AsyncEngine | None) -> AsyncIterator[Book]:
    async with book_on(store_engine) as book:
        yield book


def _states(versions: "list[TemplateVersion] | object") -> list[tuple[int, str]]:
    assert isinstance(versions, list)
    return [(version.version, version.state) for version in versions]


async def _version(book: Book, number: int) -> TemplateVersion:
    found = await book.library.version(NAME, number)
    assert found is not None
    return found


async def test_a_draft_is_kept_as_it_is_and_not_served(book: Book) -> None:
    wanted = template(
        "é 汉字 👩‍🚀",
        target=None,
        user_format="{{prompt}}\nBetter:",
        sampling=TemplateSampling(temperature=0.4, top_k=40, stop=("\n",)),
        examples=(Example("ein Fuchs", "a fox 🦊"),),
        examples_sent=1,
        grammar='root ::= "x"',
        negative_prompt="blurry",
        description="For SDXL.",
    )
    who = book.who()
    draft = await book.library.draft(
        wanted, base_version=None, author=who.author, reason=who.reason, at=who.at
    )
    assert draft == await _version(book, 1)
    assert draft.template == wanted
    assert draft.content_sha256 == content_sha256(wanted)
    assert (draft.version, draft.state, draft.base_version) == (1, "draft", None)
    assert (draft.author, draft.reason, draft.created_at) == (who.author, who.reason, who.at)
    assert await book.library.find(NAME) is None
    assert await book.served() == {}
    (event,) = await book.library.events(NAME)
    assert (event.action, event.actor, event.to_version) == ("drafted", "cli:ann", 1)


async def test_drafts_get_the_next_numbers_whatever_they_say(book: Book) -> None:
    numbers = [(await book.draft(f"Text {n}.", version=9)).version for n in range(3)]
    assert numbers == [1, 2, 3]
    assert [item.version for item in await book.library.versions(NAME)] == [3, 2, 1]


async def test_the_first_activation_makes_the_row(book: Book) -> None:
    await book.draft("First.")
    before = await book.store.epoch()
    epoch = await book.activate(1, None)
    assert epoch == await book.store.epoch() > before
    row = await book.library.find(NAME)
    assert row is not None
    assert (row.version, row.is_active, row.updated_by) == (1, True, "cli:ann")
    assert (row.change_reason, row.problem) == ("because", None)
    assert row.template == template("First.")
    assert row.content_sha256 == template("First.").content_sha256
    assert row.created_at == row.updated_at
    assert await book.served() == {NAME: template("First.")}
    assert (await _version(book, 1)).state == "live"
    event = (await book.library.events(NAME))[0]
    assert (event.action, event.from_version, event.to_version) == ("activated", None, 1)
    assert event.gate == GATE
    assert event.reason == "because"


async def test_a_second_version_replaces_the_first(book: Book) -> None:
    await book.live("First.")
    draft = await book.draft("Second.", base=1, target="wan")
    assert (draft.version, draft.base_version) == (2, 1)
    await book.activate(2, 1)
    row = await book.library.find(NAME)
    assert row is not None
    assert (row.version, row.target) == (2, "wan")
    assert row.updated_at > row.created_at
    assert (await book.served())[NAME].system_prompt == "Second."
    versions = await book.library.versions(NAME)
    assert _states(versions) == [(2, "live"), (1, "retired")]
    assert [event.action for event in await book.library.events(NAME)] == [
        "activated",
        "drafted",
        "activated",
        "drafted",
    ]


async def test_a_change_has_one_event_and_no_second_version(book: Book) -> None:
    await book.live("First.", "Second.")
    assert len(await book.library.events(None)) == 4
    assert len(await book.library.versions(NAME)) == 2


async def test_an_inactive_template_comes_back(book: Book) -> None:
    await book.live("First.")
    who = book.who()
    epoch = await book.library.deactivate(NAME, author="cli:bob", reason="pause", at=who.at)
    assert epoch == await book.store.epoch()
    assert await book.served() == {}
    row = await book.library.find(NAME)
    assert row is not None
    assert (row.is_active, row.updated_by, row.change_reason) == (False, "cli:bob", "pause")
    assert (await _version(book, 1)).state == "live"
    event = (await book.library.events(NAME))[0]
    assert (event.action, event.from_version, event.to_version) == ("deactivated", 1, None)
    await book.activate(1, 1)
    assert NAME in await book.served()
    assert len(await book.library.versions(NAME)) == 1


async def test_a_draft_can_replace_an_inactive_version(book: Book) -> None:
    await book.live("First.")
    who = book.who()
    await book.library.deactivate(NAME, author=who.author, reason=who.reason, at=who.at)
    await book.draft("Second.", base=1)
    await book.activate(2, 1)
    assert (await book.served())[NAME].version == 2


async def test_a_rollback_is_a_new_version_that_names_its_origin(book: Book) -> None:
    await book.live("First.", "Second.")
    version = await book.roll_back(1, 2)
    assert (version.version, version.origin_version, version.base_version) == (3, 1, 2)
    assert version == await _version(book, 3)
    assert (await book.served())[NAME] == replace(template("First."), version=3)
    assert version.content_sha256 == (await _version(book, 1)).content_sha256
    versions = await book.library.versions(NAME)
    assert _states(versions) == [(3, "live"), (2, "retired"), (1, "retired")]
    event = (await book.library.events(NAME))[0]
    assert (event.action, event.from_version, event.to_version) == ("rolled_back", 2, 3)
    assert event.gate is None


async def test_a_rollback_serves_an_inactive_template_again(book: Book) -> None:
    await book.live("First.", "Second.")
    who = book.who()
    await book.library.deactivate(NAME, author=who.author, reason=who.reason, at=who.at)
    await book.roll_back(1, 2)
    assert (await book.served())[NAME].system_prompt == "First."


async def test_a_discarded_draft_leaves_its_event(book: Book) -> None:
    await book.draft("First.")
    before = await book.store.epoch()
    who = book.who()
    await book.library.discard(NAME, 1, author=who.author, reason="no good", at=who.at)
    assert await book.library.versions(NAME) == []
    assert await book.library.version(NAME, 1) is None
    events = await book.library.events(NAME)
    assert [(event.action, event.reason) for event in events] == [
        ("discarded", "no good"),
        ("drafted", "because"),
    ]
    assert await book.store.epoch() == before
    # The number stays in the events, where it must mean one text.
    assert (await book.draft("Second.")).version == 2


async def test_a_split_is_served_until_it_is_promoted(book: Book) -> None:
    await book.live("First.")
    await book.draft("Second.", base=1)
    before = await book.store.epoch()
    split_id = await book.start_split(2, 1, percent=30)
    assert await book.store.epoch() > before
    (running,) = await book.library.splits(NAME)
    assert (running.split_id, running.percent, running.started_by) == (split_id, 30, "cli:ann")
    (served,) = (await book.store.changes(None)).splits
    assert served.split == running
    assert served.candidate == replace(template("Second."), version=2)
    assert (await book.served())[NAME].version == 1
    who = book.who()
    ended = await book.library.end_split(
        NAME, "promoted", author=who.author, reason=who.reason, at=who.at
    )
    assert (ended.outcome, ended.ended_at) == ("promoted", who.at)
    assert await book.library.splits() == [ended]
    changes = await book.store.changes(None)
    assert changes.splits == []
    assert [item.version for item in changes.active] == [2]
    actions = [event.action for event in await book.library.events(NAME)]
    assert actions[:2] == ["split_promoted", "split_started"]
    assert [item.version for item in await book.library.versions(NAME)] == [2, 1]


async def test_an_aborted_candidate_is_retired_and_can_be_rolled_back_to(book: Book) -> None:
    await book.live("First.")
    await book.draft("Second.", base=1)
    await book.start_split(2, 1)
    who = book.who()
    await book.library.end_split(NAME, "aborted", author=who.author, reason="worse", at=who.at)
    assert (await book.store.changes(None)).splits == []
    assert (await book.served())[NAME].version == 1
    assert (await _version(book, 2)).state == "retired"
    event = (await book.library.events(NAME))[0]
    assert (event.action, event.from_version, event.to_version) == ("split_aborted", 2, 1)
    assert (await book.roll_back(2, 1)).version == 3


@pytest.mark.parametrize("change", ["deactivate", "roll_back"])
async def test_a_split_ends_with_what_it_splits(book: Book, change: str) -> None:
    await book.live("First.", "Second.")
    await book.draft("Third.", base=2)
    await book.start_split(3, 2)
    who = book.who()
    if change == "deactivate":
        await book.library.deactivate(NAME, author=who.author, reason=who.reason, at=who.at)
    else:
        assert (await book.roll_back(1, 2)).version == 4
    assert [split.outcome for split in await book.library.splits(NAME)] == ["aborted"]
    actions = [event.action for event in await book.library.events(NAME)][:2]
    assert actions == ["deactivated" if change == "deactivate" else "rolled_back", "split_aborted"]
    assert (await book.store.changes(None)).splits == []


async def test_splits_come_running_first_and_then_newest_first(book: Book) -> None:
    await book.live("First.")
    started = []
    for number in (2, 3):
        await book.draft(f"Text {number}.", base=1)
        started.append(await book.start_split(number, 1))
        who = book.who()
        await book.library.end_split(NAME, "aborted", author="a", reason="r", at=who.at)
    await book.draft("Text 4.", base=1)
    started.append(await book.start_split(4, 1))
    found = [split.split_id for split in await book.library.splits()]
    assert found == [started[2], started[1], started[0]]
    assert await book.library.splits("another") == []


async def test_lists_by_name_in_pages_and_by_filter(book: Book) -> None:
    for name, target, mode in (("b", None, "sfw"), ("a", "wan", "nsfw"), ("C.d", "sdxl", "sfw")):
        await book.draft("x", template_name=name, target=target, content_mode=mode)
        await book.activate(1, None, name)
    who = book.who()
    await book.library.deactivate("b", author=who.author, reason=who.reason, at=who.at)
    await book.draft("x", template_name="d")

    async def names(wanted: TemplateFilter, after: str | None = None) -> set[str]:
        found = await book.library.list(wanted, after=after)
        return {row.template_name for row in found}

    everything = [row.template_name for row in await book.library.list(TemplateFilter())]
    assert set(everything) == {"a", "b", "C.d"}
    first = await book.library.list(TemplateFilter(), limit=2)
    rest = await book.library.list(TemplateFilter(), after=first[-1].template_name)
    assert [row.template_name for row in (*first, *rest)] == everything
    assert await names(TemplateFilter(target="")) == {"b"}
    assert await names(TemplateFilter(target="wan")) == {"a"}
    assert await names(TemplateFilter(is_active=False)) == {"b"}
    assert await names(TemplateFilter(is_active=True, content_mode="sfw")) == {"C.d"}
    assert await names(TemplateFilter(name_contains="c.D")) == {"C.d"}
    assert await names(TemplateFilter(name_contains="%")) == set()
    assert await names(TemplateFilter(name_contains="C_d")) == set()
    assert await names(TemplateFilter(model_type="qwen_base")) == set()
    assert await names(TemplateFilter(use_case="enhancement")) == {"a", "b", "C.d"}


async def test_versions_and_events_come_in_pages(book: Book) -> None:
    await book.live(*(f"Text {n}." for n in range(1, 6)))
    await book.draft("Other.", template_name="other")
    page = await book.library.versions(NAME, limit=2)
    assert [item.version for item in page] == [5, 4]
    page = await book.library.versions(NAME, before=4, limit=2)
    assert [item.version for item in page] == [3, 2]
    assert await book.library.versions(NAME, before=1) == []
    events = list(await book.library.events(None))
    assert len(events) == 11
    assert events[0].template_name == "other"
    page_of_events = await book.library.events(None, before=events[3].event_id, limit=4)
    assert list(page_of_events) == events[4:8]
    assert list(await book.library.events(NAME)) == events[1:]
    assert await book.library.events(None, before="no such event") == []


@pytest.mark.parametrize("name", ["nobody", "", "a\x00b", "\udcff", "x" * 10_000])
async def test_what_is_not_there_is_not_found(book: Book, name: str) -> None:
    await book.live("First.")
    assert await book.library.find(name) is None
    assert await book.library.versions(name) == []
    assert await book.library.version(name, 1) is None
    assert await book.library.events(name) == []
    assert await book.library.splits(name or "nobody") == []
    assert await book.store.pinned(name, 1) is None


@pytest.mark.parametrize("number", [0, -1, 7, 2**31, 10**30])
async def test_a_version_that_is_not_there_is_not_found(book: Book, number: int) -> None:
    await book.live("First.")
    assert await book.library.version(NAME, number) is None
    assert await book.store.pinned(NAME, number) is None


async def test_a_version_can_be_pinned_and_says_whether_it_was_live(book: Book) -> None:
    await book.live("First.")
    await book.draft("Second.", base=1)
    live, draft = await book.store.pinned(NAME, 1), await book.store.pinned(NAME, 2)
    assert live is not None
    assert draft is not None
    assert (live.template, live.ever_live) == (template("First."), True)
    assert (draft.template.system_prompt, draft.ever_live) == ("Second.", False)


async def test_gateways_say_what_they_serve(book: Book) -> None:
    await book.store.acknowledge("g1", name="host:1", epoch=3, active_sha256="a" * 64)
    await book.store.acknowledge("g2", name="host:2", epoch=4, active_sha256="b" * 64)
    await book.store.acknowledge("g1", name="host:1", epoch=5, active_sha256="c" * 64)
    before = await book.store.epoch()
    seen = {gateway.gateway_id: gateway for gateway in await book.library.gateways()}
    assert (seen["g1"].name, seen["g1"].epoch) == ("host:1", 5)
    assert seen["g1"].active_sha256 == "c" * 64
    assert all(0 <= gateway.seen_s_ago < 60 for gateway in seen.values())
    await book.store.forget("g1")
    await book.store.forget("nobody")
    assert [gateway.gateway_id for gateway in await book.library.gateways()] == ["g2"]
    assert await book.store.epoch() == before


@pytest.mark.parametrize("name", ["a\x00b", "\udcff"])
async def test_a_name_that_cannot_be_stored_names_no_template(book: Book, name: str) -> None:
    await book.live("First.")
    before = await book.state()
    with pytest.raises(TemplateNotFound) as caught:
        await book.library.deactivate(name, author="a", reason="r", at=AT)
    assert caught.value.message.encode()
    with pytest.raises(TemplateNotFound):
        await book.activate(1, None, name)
    assert await book.state() == before


async def test_a_draft_that_breaks_a_rule_is_not_stored(book: Book) -> None:
    broken = Template(
        template_name=NAME,
        version=1,
        model_type="m",
        use_case="chat",
        content_mode="sfw",
        target=None,
        system_prompt="{{nobody}}",
        token_limit=75,
        token_unit="clip",
        max_tokens=200,
    )
    before = await book.state()
    with pytest.raises(TemplateInvalid, match="system_prompt"):
        await book.library.draft(broken, base_version=None, author="a", reason="r", at=AT)
    assert await book.state() == before


async def test_a_gate_result_is_recorded_with_the_split(book: Book) -> None:
    await book.live("First.")
    await book.draft("Second.", base=1)
    await book.start_split(2, 1)
    assert (await book.library.events(NAME))[0].gate == GATE
