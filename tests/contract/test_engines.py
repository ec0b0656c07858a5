"""What every engine must do, over the echo and over the packaged model."""

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from time import process_time, thread_time

import pytest

from onbook.wire.gbnf import MAX_NESTING, GrammarInvalid, check_grammar
from onbook.wire.worker_api import Message, Sampling, effective_sampling
from onbook.worker.engines.base import Engine, EngineError, GrammarError, Piece
from onbook.worker.engines.echo import EchoEngine
from onbook.worker.rendering import chat_renderer
from support_worker import packaged_llama


@pytest.fixture(scope="module")
def llama() -> Iterator[Engine]:
    with packaged_llama(slots=2) as engine:
        yield engine


@pytest.fixture(params=["echo", pytest.param("llama_cpp", marks=pytest.mark.model)])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "echo":
        return EchoEngine(2048)
    loaded: Engine = request.getfixturevalue("llama")
    return loaded


class _Asked:
    """Runs one conversation; without a seed of its own the text would differ each time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._render = chat_renderer(engine.text, engine.chat_template).render

    async def __call__(
        self,
        prompt: str = "one, two, three, four, five, six",
        *,
        grammar: str | None = None,
        max_tokens: int = 16,
        stop: Sequence[str] = (),
        seed: int = 7,
    ) -> list[Piece]:
        asked = Sampling(max_tokens=max_tokens, seed=seed, stop=list(stop), temperature=1.0)
        sampling = effective_sampling(asked, "chat")
        ids = self._render([Message("user", prompt)])
        async with aclosing(self._engine.generate(ids, sampling, grammar)) as pieces:
            return [piece async for piece in pieces]


@pytest.fixture
def ask(engine: Engine) -> _Asked:
    return _Asked(engine)


def _text(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def _first(pieces: AsyncGenerator[Piece, None]) -> Piece:
    async with aclosing(pieces):
        return await anext(pieces)


async def _close_while_running(engine: Engine) -> None:
    ids = engine.text.ids("one, two, three, four")
    sampling = effective_sampling(Sampling(max_tokens=400, seed=1), "generate")
    running = engine.generate(ids, sampling, 'root ::= ("ab "){400}')
    await anext(running)
    names = [thread.name for thread in threading.enumerate()]
    assert any(name.startswith("llama_") for name in names[-1:])
    assert await engine.ready()
    await engine.close()
    assert not await engine.ready()
    left = [piece async for piece in running]
    assert not any(piece.finish_reason for piece in left)
    with pytest.raises(EngineError):
        await anext(engine.generate(ids, sampling, None))


def _check_whole(pieces: Sequence[Piece]) -> None:
    """Check the protocol's shape: the last piece, and only that, ends and counts."""
    *before, last = pieces
    assert last.finish_reason in ("stop", "length")
    assert all(piece.finish_reason is None for piece in before)
    assert last.tokens_generated > 0


async def test_text_comes_in_pieces_and_the_last_one_ends_it(ask: _Asked) -> None:
    pieces = await ask()
    _check_whole(pieces)
    assert _text(pieces)


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_max_tokens_ends_with_length_and_the_true_count(ask: _Asked, limit: int) -> None:
    pieces = await ask(max_tokens=limit)
    assert (pieces[-1].finish_reason, pieces[-1].tokens_generated) == ("length", limit)


async def test_a_stop_string_ends_with_stop_and_is_not_in_the_text(ask: _Asked) -> None:
    whole = _text(await ask())
    assert len(whole) > 6
    stop = whole[3:6]
    pieces = await ask(stop=["never in any text \x01", stop])
    assert _text(pieces) == whole.partition(stop)[0]
    assert pieces[-1].finish_reason == "stop"


async def test_a_stop_string_that_does_not_occur_changes_nothing(ask: _Asked) -> None:
    # The pieces may differ: an end that could begin the stop string is held back for a while.
    held, plain = await ask(stop=["never in any text \x01"]), await ask()
    assert (_text(held), held[-1]) == (_text(plain), plain[-1])


async def test_the_same_seed_gives_the_same_text_serially(ask: _Asked) -> None:
    first = await ask(seed=3)
    assert await ask(seed=3) == first


async def test_the_engine_says_how_many_tokens_it_has_read(engine: Engine, ask: _Asked) -> None:
    ids = chat_renderer(engine.text, engine.chat_template).render([Message("user", "a fox")])
    pieces = await ask("a fox")
    assert pieces[-1].prompt_tokens == len(ids)


async def test_concurrent_requests_are_all_served(ask: _Asked) -> None:
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(ask(max_tokens=4, seed=seed) for seed in range(6)))
    for pieces in answers:
        _check_whole(pieces)


def _engine_threads() -> int:
    # Without the event loop's own pool, which grows as it likes.
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


async def test_closing_the_generator_frees_the_slot_and_leaves_no_thread(
    engine: Engine, ask: _Asked
) -> None:
    await asyncio.gather(*(ask(max_tokens=1) for _ in range(4)))
    threads = _engine_threads()
    ids = engine.text.ids("one, two, three, four")
    sampling = effective_sampling(Sampling(max_tokens=1500, seed=1), "generate")
    # A text of 1,400 words that may not end early: a generation that went on would be noticed.
    endless = 'root ::= ("ab "){1400}'
    for _ in range(6):
        async with aclosing(engine.generate(ids, sampling, endless)) as pieces:
            await anext(pieces)
    async with asyncio.timeout(20):
        # Three times the slots: each must have been given back for all of these to be served.
        answers = await asyncio.gather(*(ask(max_tokens=2) for _ in range(6)))
    assert len(answers) == 6
    assert _engine_threads() <= threads


def test_what_an_engine_says_of_itself_is_usable(engine: Engine) -> None:
    assert engine.context_size == engine.model.context_size == 2048
    assert (engine.model.slots or 0) >= 1
    assert engine.model.family == "chatml"
    assert engine.text.ids("") == []


@pytest.mark.parametrize("text", ["plain", "  two  spaces ", "é\U0001f600中", "\n\n\t", "a\x00b"])
def test_plain_text_has_ids_and_they_are_the_same_each_time(engine: Engine, text: str) -> None:
    ids = engine.text.ids(text)
    assert ids
    assert engine.text.ids(text) == ids


@pytest.mark.model
class TestLlamaCpp:
    """What only a real model can show."""

    @pytest.fixture
    def ask(self, llama: Engine) -> _Asked:
        return _Asked(llama)

    async def test_different_seeds_give_different_texts(self, ask: _Asked) -> None:
        texts = {_text(await ask("Tell me a story.", seed=seed)) for seed in range(3)}
        assert len(texts) > 1

    async def test_the_same_seed_gives_the_same_text_cold_or_warm(self, ask: _Asked) -> None:
        # A long common part: it is read cold, then from the cache as a part, then as a whole.
        rules = " ".join(f"Rule {number}: name a thing of the scene." for number in range(8))
        for subject in ("a ship in a storm", "a chef"):
            prompt = f"{rules} The idea is {subject}."
            cold = _text(await ask(prompt, max_tokens=16))
            assert _text(await ask(prompt, max_tokens=16)) == cold
            await ask(f"{rules} The idea is a piano.", max_tokens=2)
            assert _text(await ask(prompt, max_tokens=16)) == cold

    async def test_a_request_is_cancelled_while_its_prompt_is_read(
        self, llama: Engine, ask: _Asked
    ) -> None:
        # Reading the whole of it takes many seconds; after a cancel only the batch is finished.
        ids = llama.text.ids("one two three four five six seven eight " * 220)
        sampling = effective_sampling(Sampling(max_tokens=5, seed=1), "generate")
        before, own = process_time(), thread_time()
        tasks = [
            asyncio.create_task(_first(llama.generate(ids[shift:], sampling, None)))
            for shift in range(2)
        ]
        # Until the engine's thread has worked on it: this one's time does not count.
        for _ in range(1_000_000):
            if process_time() - before - thread_time() + own > 0.1:
                break
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        _check_whole(await ask(max_tokens=2))
        assert process_time() - before < 8

    def test_a_closed_engine_ends_what_runs_and_takes_nothing_new(self) -> None:
        # Closed outside of a loop by the fixture, once more: that does no harm.
        with packaged_llama(slots=1, context_size=512) as engine:
            asyncio.run(_close_while_running(engine))

    async def test_a_grammar_is_obeyed(self, ask: _Asked) -> None:
        grammar = 'root ::= "a fox" (", " ("red" | "blue")){2}'
        pieces = await ask("Say something.", grammar=grammar, max_tokens=30)
        assert re.fullmatch(r"a fox(, (red|blue)){2}", _text(pieces))
        assert pieces[-1].finish_reason == "stop"

    @pytest.mark.parametrize(
        "grammar",
        [
            'root ::= "',
            "root ::= nosuch",
            'rule ::= "a"',
            'root ::= root "a"',
            "not a grammar",
            'root ::= "\\q"',
            'root ::= "a"\n"b"',
            "root ::= *",
            'root ::= "a" ;',
            'root ::= ("a"',
            'root ::= "a")',
            "root ::= <",
            "root ::= [",
            "root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000,
        ],
        ids=lambda grammar: repr(grammar[:20]),
    )
    async def test_an_invalid_grammar_is_the_callers_mistake(
        self, ask: _Asked, grammar: str
    ) -> None:
        with pytest.raises(GrammarError) as caught:
            await ask(grammar=grammar)
        assert isinstance(caught.value, EngineError)
        assert "nosuch" not in str(caught.value)
        _check_whole(await ask(max_tokens=2))

    async def test_text_over_several_tokens_per_character_comes_out_whole(
        self, ask: _Asked
    ) -> None:
        said = "\U0001f98a中é"
        pieces = await ask("Say it.", grammar=f'root ::= "{said}"', max_tokens=40)
        assert _text(pieces) == said

    async def test_control_tokens_of_the_model_do_not_come_out_as_text(self, ask: _Asked) -> None:
        pieces = await ask("Say hi.", grammar='root ::= "hi"', max_tokens=10)
        assert _text(pieces) == "hi"
        assert pieces[-1].tokens_generated == 2


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + "(" * MAX_NESTING + '"a"' + ")" * MAX_NESTING,
        "root ::= " + '("a") ' * 5000,
        'root ::= "' + "(" * 5000 + '"',
        'root ::= "\\"' + "(" * 5000 + '"',
        "root ::= [" + "(" * 5000 + "]",
        "root ::= [\\]" + "(" * 5000 + "]",
        "# " + "(" * 5000 + '\nroot ::= "a"',
        'root ::= "a" |\n "b"\n\n# end\nx ::= (\n [a-z]\n){1,3}',
        'root ::= a-b* . <[5]>\na-b ::= "\\x41\\u00e9"',
    ],
    ids=lambda grammar: grammar[:16],
)
def test_brackets_in_text_and_beside_each_other_are_not_nesting(grammar: str) -> None:
    check_grammar(grammar)


@pytest.mark.parametrize(
    "before", ["", '"a" ', '"\\\\" ', "[a] ", "[\\\\] ", '# "\n', "# [\r", "'\" '\" "]
)
def test_nesting_is_found_behind_whatever_is_text(before: str) -> None:
    with pytest.raises(GrammarInvalid):
        check_grammar(f"root ::= {before}" + "(" * (MAX_NESTING + 1))


@pytest.mark.parametrize("shape", ['"', '\\"', "[", "\\", '"\\', "#", "()"])
def test_a_grammar_is_read_in_one_pass(shape: str) -> None:
    # A rescan at each character would be two thousand million steps, and half a minute.
    started = process_time()
    with pytest.raises(GrammarInvalid):
        check_grammar("root ::= " + shape * (65_536 // len(shape)) + "\n$")
    assert process_time() - started < 2
