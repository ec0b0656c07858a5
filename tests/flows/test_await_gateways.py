"""Waiting for gateways: who serves a change, who does not yet, and who is not waited for."""

from collections.abc import Sequence

import pytest

from onbook.adapters.memory.clock import FixedClock
from onbook.adapters.memory.template_book import MemoryBook
from onbook.adapters.memory.template_library import MemoryTemplateLibrary
from onbook.domain.errors import DatabaseUnavailable
from onbook.flows.await_gateways import GatewaysReached, await_gateways
from onbook.ports.stores import StoreUnavailable
from onbook.ports.template_library import GatewaySeen


def seen(name: str, epoch: int, seen_s_ago: float = 0.0) -> GatewaySeen:
    return GatewaySeen(
        gateway_id=name, name=name, epoch=epoch, active_sha256="0" * 64, seen_s_ago=seen_s_ago
    )


class Scripted(MemoryTemplateLibrary):
    """Answers with one list after the other; None is a moment without a database."""

    def __init__(self, *answers: Sequence[GatewaySeen] | None) -> None:
        super().__init__(MemoryBook())
        self.answers = list(answers)

    async def gateways(self) -> Sequence[GatewaySeen]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise StoreUnavailable("away")
        return answer


async def waited(
    *answers: Sequence[GatewaySeen] | None, timeout_s: float = 1.0
) -> tuple[GatewaysReached, list[float]]:
    clock, pauses = FixedClock(), list[float]()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        clock.advance(seconds)

    library = Scripted(*answers)
    reached = await await_gateways(
        5, library=library, clock=clock, timeout_s=timeout_s, pause=pause
    )
    return reached, pauses


async def test_it_returns_once_every_live_gateway_has_the_epoch() -> None:
    reached, pauses = await waited(
        [seen("a", 4), seen("b", 3)],
        [seen("a", 5), seen("b", 4)],
        [seen("a", 6), seen("b", 5)],
    )
    assert reached.complete
    assert [gateway.name for gateway in reached.have] == ["a", "b"]
    assert pauses == [0.05, 0.05]
    assert reached.waited_s == pytest.approx(0.1)


async def test_after_the_time_out_it_names_who_has_not() -> None:
    reached, pauses = await waited([seen("a", 5), seen("b", 4)], timeout_s=0.12)
    assert not reached.complete
    assert [gateway.name for gateway in reached.have] == ["a"]
    assert [gateway.name for gateway in reached.missing] == ["b"]
    assert sum(pauses) == pytest.approx(0.12)


async def test_a_time_out_of_nothing_looks_once() -> None:
    reached, pauses = await waited([seen("b", 4)], timeout_s=0)
    assert (reached.complete, pauses) == (False, [])


async def test_without_gateways_there_is_nobody_to_wait_for() -> None:
    reached, pauses = await waited([])
    assert (reached.complete, pauses) == (True, [])


async def test_a_silent_gateway_is_not_waited_for_and_a_new_one_is() -> None:
    reached, _ = await waited(
        [seen("dead", 1, 15.1), seen("slow", 4, 15.0)],
        [seen("dead", 1, 15.2), seen("new", 2), seen("slow", 4, 15.1)],
        [seen("dead", 1, 15.3), seen("new", 5), seen("slow", 4, 15.2)],
    )
    assert reached.complete
    assert [gateway.name for gateway in reached.have] == ["new"]


async def test_a_moment_without_the_database_is_waited_out() -> None:
    reached, pauses = await waited(None, [seen("a", 4)], None, [seen("a", 5)])
    assert reached.complete
    assert len(pauses) == 3
    stuck, _ = await waited([seen("a", 4)], None)
    assert [gateway.name for gateway in stuck.missing] == ["a"], "what was seen last is told"


async def test_a_database_that_stays_away_is_told() -> None:
    with pytest.raises(DatabaseUnavailable):
        await waited(None)
