"""A value is judged in the sentence of the template that it is filled into."""

import tomllib
from dataclasses import dataclass, field

import pytest

from onbook.adapters.files.packaged import packaged_lexicon_bytes
from onbook.domain.content_mode.decision import ContentMode, Detection
from onbook.domain.content_mode.filled import refused_when_filled
from onbook.domain.content_mode.lexicon import parse_lexicon
from onbook.domain.content_mode.lexicon_detector import LexiconDetector
from onbook.domain.templates import Template, Variable

LEXICON = parse_lexicon(tomllib.loads(packaged_lexicon_bytes().decode()), sha256="0")


@dataclass
class Counting:
    """The real detector; ``texts`` are those that it was given."""

    inner: LexiconDetector = field(default_factory=lambda: LexiconDetector(LEXICON))
    texts: list[str] = field(default_factory=list)

    @property
    def identity(self) -> object:
        return self.inner.identity

    def detect(self, text: str) -> Detection:
        self.texts.append(text)
        return self.inner.detect(text)


def template(system_prompt: str, content_mode: ContentMode = "nsfw") -> Template:
    return Template(
        template_name="t",
        version=1,
        model_type="m",
        use_case="enhancement",
        content_mode=content_mode,
        target="sdxl",
        system_prompt=system_prompt,
        token_limit=75,
        token_unit="clip",
        max_tokens=200,
        variables=(
            Variable("n", "integer"),
            Variable("share", "number"),
            Variable("style"),
            Variable("other", default="12"),
        ),
    )


def refused(prompt: str, values: dict[str, object], used: Template) -> bool:
    return refused_when_filled(prompt, values, used, Counting()) is not None  # type: ignore[arg-type]  # its identity is not looked at


AGED = "Write tags. The subject is {{n}} years old. Be brief."


@pytest.mark.parametrize(
    ("prompt", "value", "mode", "expected"),
    [
        ("a nude person", 12, "nsfw", True),
        ("a nude person", 30, "nsfw", False),
        # An nsfw template makes the request a sexual one, whatever words it is in.
        ("a person in a garden", 12, "nsfw", True),
        ("a person in a garden", 12, "sfw", False),
        # The caller may have chosen sfw for a prompt that is not.
        ("a nude person", 12, "sfw", True),
    ],
)
def test_the_words_around_a_slot_are_read_with_the_value(
    prompt: str,
    value: int,
    mode: ContentMode,
    expected: bool,  # noqa: FBT001 - parametrized
) -> None:
    assert refused(prompt, {"n": value}, template(AGED, mode)) is expected


def test_of_a_number_the_whole_part_is_read() -> None:
    aged = template("The subject is {{share}} years old.")
    assert refused("a nude person", {"share": 12.5}, aged)
    assert not refused("a nude person", {"share": 30.0}, aged)


def test_what_the_template_says_without_any_value_is_not_the_callers() -> None:
    careful = template("Never a child, in the style of {{style}}.")
    assert not refused("a nude person", {"style": "noir"}, careful)
    assert not refused("a nude person", {"style": "nude photography"}, careful)
    assert refused("a nude person", {"style": "noir, of a child"}, careful)


def test_a_value_that_turns_the_templates_own_words_is_refused() -> None:
    drawing = template("A drawing of a child in the style of {{style}}.", "sfw")
    assert not refused("a garden", {"style": "noir"}, drawing)
    assert refused("a garden", {"style": "nude photography"}, drawing)


def test_only_a_sentence_with_a_given_value_is_read_and_only_once() -> None:
    apart = "A child may read this. In the style of {{style}}.\n" * 3 + "It is {{other}} years old."
    detector = Counting()
    found = refused_when_filled("a nude person", {"style": "noir"}, template(apart), detector)  # type: ignore[arg-type]  # its identity is not looked at
    assert found is None
    (text,) = detector.texts
    assert text == "a nude person\nstyle noir\nnude\nIn the style of noir."


@pytest.mark.parametrize("values", [{}, {"n": True}, {"share": 1}])
def test_nothing_is_read_where_nothing_is_filled_in(values: dict[str, object]) -> None:
    detector = Counting()
    assert refused_when_filled("a nude child", values, template(AGED), detector) is None  # type: ignore[arg-type]  # its identity is not looked at
    assert detector.texts == []


def test_a_long_value_is_read_at_its_ends() -> None:
    aged = template("They are {{style}} years old.")
    assert refused("a nude person", {"style": "a" * 2000 + " 12"}, aged)
    detector = Counting()
    many = template("{{style}} and " * 1000)
    refused_when_filled("a cat", {"style": "b" * 2000}, many, detector)  # type: ignore[arg-type]  # its identity is not looked at
    assert sum(map(len, detector.texts)) < 1000 * 300
