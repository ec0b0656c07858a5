"""A template whose own text makes its limits impossible is told before it is stored."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.adapters.files.packaged import packaged_templates
from onbook.adapters.tokenizers import counters
from onbook.domain.feasibility import infeasible
from onbook.domain.messages import compose
from onbook.domain.template_rules import PROMPT_SLOT
from onbook.domain.templates import Example, Template, TemplateTest, Variable
from onbook.domain.token_counting import CharacterCounter
from onbook.wire.gbnf import check_grammar
from onbook.wire.gbnf_shortest import shortest_sentence

COUNTERS = counters()
TEMPLATE = Template(
    template_name="t",
    version=1,
    model_type="m",
    use_case="enhancement",
    content_mode="sfw",
    target="sdxl",
    system_prompt="x" * 100,
    token_limit=20,
    token_unit="chars",
    max_tokens=50,
)
CHARS = CharacterCounter()


def fields(template: Template, emitted: str = "", context_size: int | None = None) -> list[str]:
    return [
        field
        for field, _ in infeasible(
            template, emitted=emitted, reader=CHARS, writer=CHARS, context_size=context_size
        )
    ]


@pytest.mark.parametrize(("context_size", "wrong"), [(None, []), (150, []), (149, ["max_tokens"])])
def test_the_template_and_its_answer_must_fit_the_context(
    context_size: int | None, wrong: list[str]
) -> None:
    assert fields(TEMPLATE, context_size=context_size) == wrong


def test_the_largest_set_of_examples_counts_and_variables_are_left_empty() -> None:
    pool = (Example("a", "b"), Example("a" * 10, "b" * 10))
    template = replace(
        TEMPLATE,
        system_prompt="x{{style}}{{count}}",
        variables=(Variable("style", required=True), Variable("count", "integer", required=True)),
        examples=pool,
        examples_sent=1,
    )
    # "x" and "0", the larger pair, and max_tokens.
    assert fields(template, context_size=2 + 20 + 50) == []
    assert fields(template, context_size=2 + 20 + 50 - 1) == ["max_tokens"]
    base = replace(template, user_format="Idea: {{prompt}}\nPrompt:")
    assert fields(base, context_size=2 + 20 + 50) == ["max_tokens"]


class RecordingCounter(CharacterCounter):
    """Counts characters, and how often each text was counted."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def count(self, text: str) -> int:
        self.counted[text] += 1
        return super().count(text)


def over_context(template: Template, context_size: int) -> RecordingCounter:
    """Look at the context alone; the counter tells what that took."""
    writer = RecordingCounter()
    found = infeasible(template, emitted="", reader=CHARS, writer=writer, context_size=context_size)
    assert [field for field, _ in found] in ([], ["max_tokens"])
    return writer


def test_each_text_is_counted_once_however_many_sets_there_are() -> None:
    pool = tuple(Example(f"idea {number % 40}", "same") for number in range(100))
    template = replace(TEMPLATE, examples=pool, examples_sent=1, system_prompt="long " * 1000)
    counted = over_context(template, 10**6).counted
    assert counted[template.system_prompt] == 1
    assert all(counted[f"idea {number}"] == 1 for number in range(40))


def test_examples_are_not_counted_for_a_text_that_is_too_long_without_them() -> None:
    pool = tuple(Example(f"idea {number}", "same") for number in range(100))
    template = replace(TEMPLATE, examples=pool, examples_sent=2)
    assert set(over_context(template, 149).counted) == {template.system_prompt, ""}
    # The first set that is too large settles it.
    few = over_context(template, 150).counted
    assert few["idea 1"] == 1
    assert "idea 2" not in few


texts = st.text("ab ", min_size=1, max_size=12)


@given(
    pool=st.lists(st.builds(Example, texts, texts), max_size=7),
    sent=st.integers(0, 7),
    system=st.text("xy ", max_size=20),
    user_format=st.none() | st.builds("{0}{{{{prompt}}}}{1}".format, texts, texts),
    context_size=st.integers(50, 170),
)
def test_the_largest_request_without_a_prompt_decides(
    pool: list[Example], sent: int, system: str, user_format: str | None, context_size: int
) -> None:
    template = replace(
        TEMPLATE,
        system_prompt=system,
        user_format=user_format,
        examples=tuple(pool),
        examples_sent=min(sent, len(pool)),
        token_limit=100,
    )
    largest = max(
        sum(len(message.content) for message in compose(template, "", seed=seed).messages)
        for seed in range(len(pool) + 1)
    )
    too_large = largest + template.max_tokens > context_size
    assert fields(template, context_size=context_size) == (["max_tokens"] if too_large else [])


def test_an_example_must_keep_to_the_limit_that_it_teaches() -> None:
    pool = (Example("a", "b" * 20), Example("a", "b" * 21))
    template = replace(TEMPLATE, examples=pool, examples_sent=1)
    assert fields(template) == ["examples"]
    assert fields(replace(template, examples_sent=0)) == []
    assert fields(replace(template, examples=pool[:1])) == []


def test_what_a_grammar_always_writes_must_fit_both_limits() -> None:
    assert fields(TEMPLATE, emitted="e" * 20) == []
    assert fields(TEMPLATE, emitted="e" * 21) == ["grammar"]
    assert fields(TEMPLATE, emitted="e" * 51) == ["grammar", "grammar"]


def test_what_a_test_must_keep_has_to_fit_what_it_allows() -> None:
    def tests(*must_keep: str, max_tokens: int | None = None) -> list[str]:
        test = TemplateTest(name="n", input="i", must_keep=must_keep, max_tokens=max_tokens)
        return fields(replace(TEMPLATE, tests=(test,)))

    assert tests("k" * 20) == []
    assert tests("k" * 21) == ["tests"]
    assert tests("k" * 10, "l" * 10) == ["tests"]
    assert tests("k" * 10, "k" * 9, "k" * 10) == [], "a text within another costs nothing"
    assert tests("k" * 6, max_tokens=5) == ["tests"]


@pytest.mark.parametrize("template", packaged_templates(), ids=lambda item: item.template_name)
def test_the_packaged_templates_can_be_kept(template: Template) -> None:
    reader = COUNTERS[template.token_unit]
    grammar = (template.grammar or "").replace(PROMPT_SLOT, "")
    emitted = shortest_sentence(grammar, reader.count) if grammar else ""
    found = infeasible(
        template, emitted=emitted, reader=reader, writer=COUNTERS["model"], context_size=2048
    )
    assert list(found) == []


@pytest.mark.parametrize(
    ("grammar", "shortest"),
    [
        ('root ::= "abc"', "abc"),
        ('root ::= "abc" | "de"', "de"),
        ('root ::= "a" ("bc" | "d") "e"?', "ad"),
        ('root ::= one two\none ::= "1" | "one"\ntwo ::= one "2"', "112"),
        ('root ::= "a"{3} "b"* "c"+ "d"{2,} "f"{0,9}', "aaacdd"),
        ('root ::= "x" root | "end"', "end"),
        ('root ::= [a-z]+ "." | "long text"', "."),
        ('root ::= "\\"\\n\\u0041\\\\"', '"\nA\\'),
        ('root ::= root "a"', ""),
        ('root ::= (\n"ab" |\n"c"\n) # "not this"', "c"),
    ],
)
def test_the_shortest_sentence_of_a_grammar(grammar: str, shortest: str) -> None:
    assert shortest_sentence(grammar, len) == shortest


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=6), st.integers(1, 5))
def test_no_allowed_sentence_is_shorter(words: list[str], times: int) -> None:
    literals = " | ".join(f'"{word}"' for word in words)
    grammar = f"root ::= word{{{times}}}\nword ::= {literals}"
    check_grammar(grammar)
    assert len(shortest_sentence(grammar, len)) == min(map(len, words)) * times


def test_a_hostile_grammar_costs_little() -> None:
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return len(text)

    # Each rule repeats the next one 9,999 times: written out, it would fill the memory.
    rules = [f"r{n} ::= r{n + 1}{{9999}}" for n in range(200)]
    shortest = shortest_sentence("\n".join(["root ::= r0", *rules, 'r200 ::= "ab"']), count)
    assert len(shortest) == 20_000
    assert counted < 200 * 20_000 * 4
