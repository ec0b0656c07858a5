"""The diff of two templates: it joins to both sides, names each field, and ends in time."""

from dataclasses import replace
from itertools import pairwise
from random import Random
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onbook.adapters.files.packaged import packaged_templates
from onbook.domain.template_diff import FieldDiff, WordOp, diff_templates, diff_words
from onbook.domain.templates import (
    Example,
    Template,
    TemplateSampling,
    TemplateTest,
    Variable,
    checked,
    content_sha256,
)

_WORDS = st.lists(
    st.sampled_from(["red", "hat", "a", ",", ".", "\n", "  ", "\r\n", "\u2028", "é", "👩\u200d🚀"]),
    max_size=30,
).map("".join)
_TEXTS = st.one_of(_WORDS, st.text(max_size=60))


def _joined(words: tuple[WordOp, ...], side: str) -> str:
    return "".join(word.text for word in words if word.op in ("equal", side))


@given(old=_TEXTS, new=_TEXTS)
def test_the_words_join_to_both_texts(old: str, new: str) -> None:
    words = diff_words(old, new)
    assert _joined(words, "delete") == old
    assert _joined(words, "insert") == new
    assert all(word.text for word in words)
    for first, second in pairwise(words):
        assert first.op != second.op
        assert (first.op, second.op) != ("insert", "delete")
    assert (old == new) == all(word.op == "equal" for word in words)


def test_only_the_words_that_changed_are_marked() -> None:
    assert diff_words("a red hat, on snow", "a blue hat, on deep snow") == (
        WordOp("equal", "a "),
        WordOp("delete", "red "),
        WordOp("insert", "blue "),
        WordOp("equal", "hat, on "),
        WordOp("insert", "deep "),
        WordOp("equal", "snow"),
    )


def _prose(seed: int, words: int) -> list[str]:
    random = Random(seed)  # noqa: S311  # it makes a test text, not a secret
    return [f"word{random.randrange(3_000)}" for _ in range(words)]


def _edited(words: list[str]) -> list[str]:
    return [("changed" if index % 500 == 250 else word) for index, word in enumerate(words)]


def test_one_word_in_a_large_text_of_one_line_is_found() -> None:
    words = _prose(1, 11_000)
    old, new = " ".join(words), " ".join(_edited(words))
    assert len(old) > 90_000
    ops = diff_words(old, new)
    assert [word.text.strip() for word in ops if word.op == "insert"] == ["changed"] * 22
    assert sum(len(word.text) for word in ops if word.op == "delete") < 22 * 10


_RANDOM = Random(5)  # noqa: S311  # it makes a test text, not a secret
_LARGE = {
    "same line": ("a\n" * 50_000, "b\na\n" * 25_000),
    "same word": ("x " * 50_000, "y x " * 25_000),
    "two words": (
        "".join(_RANDOM.choice("ab") + " " for _ in range(50_000)),
        "".join(_RANDOM.choice("ab") + " " for _ in range(50_000)),
    ),
    "few words": (
        "".join(f"w{_RANDOM.randrange(200)} " for _ in range(20_000)),
        "".join(f"w{_RANDOM.randrange(200)} " for _ in range(20_000)),
    ),
    "many gaps": (
        "".join(f"u{i} " + "".join(_RANDOM.choices("abc ", k=40)) + "\n" for i in range(2_000)),
        "".join(f"u{i} " + "".join(_RANDOM.choices("abc ", k=40)) + "\n" for i in range(2_000)),
    ),
    "marks": ("{}" * 50_000, "}{" * 50_000),
    "other prose": (" ".join(_prose(1, 11_000)), " ".join(_prose(2, 11_000))),
    "reversed": (" ".join(map(str, range(17_000))), " ".join(map(str, range(17_000, 0, -1)))),
}


@pytest.mark.parametrize("name", _LARGE)
def test_large_texts_are_compared_in_bounded_time(name: str) -> None:
    old, new = (text[:100_000] for text in _LARGE[name])
    start = process_time()
    words = diff_words(old, new)
    # Processor time, and generous: what it guards against takes minutes.
    assert process_time() - start < 2
    assert _joined(words, "delete") == old
    assert _joined(words, "insert") == new


TEMPLATE = checked(
    Template(
        template_name="t",
        version=3,
        model_type="qwen_instruct",
        use_case="enhancement",
        content_mode="sfw",
        target="sdxl",
        system_prompt="Write tags for {{reader}}.",
        token_limit=75,
        token_unit="clip",
        max_tokens=200,
        examples=tuple(Example(f"user {i}", f"assistant {i}") for i in range(5)),
        examples_sent=2,
        variables=(Variable("reader", default="SDXL"), Variable("other")),
        tests=(TemplateTest(name="n", input="a red hat", must_keep=("red",)),),
    )
)


def _fields(changes: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    diffs = diff_templates(TEMPLATE, replace(TEMPLATE, **changes))
    for diff in diffs:
        assert _joined(diff.words, "delete") == (diff.old or "")
        assert _joined(diff.words, "insert") == (diff.new or "")
    return [(diff.field, diff.old, diff.new) for diff in diffs]


def test_nothing_changed_is_no_difference() -> None:
    assert _fields({"version": 4, "content_sha256": "0" * 64}) == []


def test_a_changed_field_has_its_words() -> None:
    new = replace(TEMPLATE, system_prompt="Write short tags for {{reader}}.")
    assert diff_templates(TEMPLATE, new) == (
        FieldDiff(
            "system_prompt",
            TEMPLATE.system_prompt,
            new.system_prompt,
            (
                WordOp("equal", "Write "),
                WordOp("insert", "short "),
                WordOp("equal", "tags for {{reader}}."),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"target": None}, [("target", "sdxl", None)]),
        ({"token_limit": 60}, [("token_limit", "75", "60")]),
        ({"negative_prompt": ""}, [("negative_prompt", None, "")]),
        ({"description": "New."}, [("description", "", "New.")]),
        (
            {"sampling": TemplateSampling(temperature=0.5, top_k=20, stop=("\n", "é"))},
            [
                ("sampling.temperature", "0.7", "0.5"),
                ("sampling.top_k", None, "20"),
                ("sampling.stop", None, '["\\n", "é"]'),
            ],
        ),
        (
            {"examples": (*TEMPLATE.examples[:3], Example("user 3", "new"), TEMPLATE.examples[4])},
            [("examples[3].assistant", "assistant 3", "new")],
        ),
        (
            {"examples": (Example("first", "one"), *TEMPLATE.examples)},
            [("examples[0].user", None, "first"), ("examples[0].assistant", None, "one")],
        ),
        (
            {"examples": TEMPLATE.examples[:4]},
            [("examples[4].user", "user 4", None), ("examples[4].assistant", "assistant 4", None)],
        ),
        (
            {"variables": (Variable("reader", default="SD"), TEMPLATE.variables[1])},
            [("variables.reader.default", "SDXL", "SD")],
        ),
        (
            {"variables": TEMPLATE.variables[::-1]},
            [("variables", "reader, other", "other, reader")],
        ),
        (
            {"variables": TEMPLATE.variables[:1]},
            [("variables.other.type", "string", None), ("variables.other.required", "false", None)],
        ),
        (
            {"variables": (TEMPLATE.variables[0], Variable("other", "number", default=1.0))},
            [
                ("variables.other.type", "string", "number"),
                ("variables.other.default", None, "1.0"),
            ],
        ),
        (
            {"tests": (replace(TEMPLATE.tests[0], must_keep=("red", "hat"), max_tokens=60),)},
            [
                ("tests.n.must_keep", '["red"]', '["red", "hat"]'),
                ("tests.n.max_tokens", None, "60"),
            ],
        ),
        (
            {"tests": (replace(TEMPLATE.tests[0], variables={"reader": "all"}),)},
            [("tests.n.variables.reader", None, "all")],
        ),
    ],
)
def test_each_difference_has_a_readable_name(
    changes: dict[str, Any], expected: list[tuple[str, str | None, str | None]]
) -> None:
    assert _fields(changes) == expected


def test_whatever_changes_the_hash_is_a_difference() -> None:
    one = replace(TEMPLATE, variables=(Variable("reader", "number", default=1),))
    for other in (1.0, True, "1", None):
        two = replace(one, variables=(Variable("reader", "number", default=other),))
        if other != "1":
            assert diff_templates(one, two)
        assert content_sha256(one) != content_sha256(two)


def test_of_a_new_template_every_field_that_is_set_is_new() -> None:
    diffs = diff_templates(None, TEMPLATE)
    assert all(diff.old is None and diff.new is not None for diff in diffs)
    names = [diff.field for diff in diffs]
    assert names[:3] == ["template_name", "model_type", "use_case"]
    assert "description" not in names
    assert "negative_prompt" not in names
    assert {"examples[4].user", "variables.reader.default", "tests.n.input"} <= set(names)
    assert len(names) == len(set(names))


def test_the_packaged_templates_are_compared_with_each_other() -> None:
    first, *rest = packaged_templates()
    for other in rest:
        for diff in diff_templates(first, other):
            assert _joined(diff.words, "delete") == (diff.old or "")
            assert _joined(diff.words, "insert") == (diff.new or "")
