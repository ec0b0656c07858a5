import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onbook.domain.fitting import rule_terms
from onbook.domain.fitting.fit import fit
from onbook.domain.fitting.rules import enhance_by_rules
from onbook.domain.fitting.words import (
    content_words,
    is_boilerplate,
    names_person,
    negates,
    visual_categories,
    words,
)
from onbook.domain.must_keep import protect
from onbook.domain.token_counting import CharacterCounter

SUBJECTS = ["a cat", "an old bridge", "a mountain lake", "a red car", "a bowl of soup", "a woman",
            "a clock", "entropy",
            "two zebras", "a wooden chair", "a castle", "a sailboat"]  # fmt: skip


def enhance(prompt: str, target: str = "sdxl", seed: int = 1) -> str:
    return enhance_by_rules(protect(prompt), target=target, seed=seed)


def added(prompt: str, target: str = "sdxl", seed: int = 1) -> str:
    return enhance(prompt, target, seed)[len(protect(prompt).text) :]


def additions_over_seeds(prompt: str, target: str) -> frozenset[str]:
    return frozenset(word for seed in range(60) for word in words(added(prompt, target, seed)))


@pytest.mark.parametrize("prompt", SUBJECTS)
@pytest.mark.parametrize("target", ["sdxl", "wan"])
def test_each_class_gets_the_idea_first_and_several_visual_categories(
    prompt: str, target: str
) -> None:
    raw = enhance(prompt, target)
    assert raw.startswith(prompt)
    new = visual_categories(content_words(added(prompt, target)))
    assert len(new) >= 2
    assert ("The" in raw or "." in raw) is (target == "wan") or "f/" in raw


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    assert enhance("a cat", seed=0) == enhance("a cat", seed=0)
    assert len({enhance("a cat", seed=seed) for seed in range(30)}) == 30


@pytest.mark.parametrize("target", ["sdxl", "wan"])
def test_no_added_phrase_dominates(target: str) -> None:
    prompts = [f"{subject} {place}" for subject, place in itertools.product(
        SUBJECTS, ["", "by a wall", "with a ribbon", "near water", "number seven", "made of paper"]
    )]  # fmt: skip
    grams: Counter[tuple[str, ...]] = Counter()
    for prompt in prompts:
        found = words(added(prompt.strip(), target))
        grams.update({tuple(found[i : i + 4]) for i in range(len(found) - 3)})
    assert grams.most_common(1)[0][1] / len(prompts) <= 0.2


@pytest.mark.parametrize(
    ("prompt", "never"),
    [
        ("a cat at night", {"daylight", "sunlight", "sun", "golden", "studio"}),
        ("a cat at sunset", {"moonlight", "night", "overcast", "studio"}),
        ("a cat in the rain", {"sunlight", "sun", "moonlight", "studio"}),
        ("a cat in a kitchen", {"sunlight", "sky", "moonlight", "horizon light"}),
        ("an oil painting of a cat", {"lens", "photograph", "photography", "optics", "glass"}),
        ("anime cat", {"lens", "photograph", "photography", "optics", "glass"}),
        ("pixel art of a cat", {"lens", "photograph", "photography", "optics", "glass"}),
        ("a photo of a cat", {"illustration", "painting", "artwork", "render"}),
        ("a cat, close-up", {"wide", "framing", "composition", "viewpoint"}),
        ("a red cat", {"muted", "earthy", "jewel-toned", "faded"}),
        ("a black and white photo of a cat", {"colors", "hues", "color"}),
        ("a cat in candlelight", {"light", "daylight", "softbox"}),
    ],
)
def test_tags_never_contradict_the_idea(prompt: str, never: set[str]) -> None:
    assert additions_over_seeds(prompt, "sdxl").isdisjoint(never)


@pytest.mark.parametrize(
    ("prompt", "never"),
    [
        ("a cat, the camera zooms in", {"camera", "pan", "push-in", "framed", "viewed"}),
        ("in a still frame, a cat", {"camera", "pan", "push-in", "turning", "wandering"}),
        ("a cat running to the left", {"turning", "wandering"}),
        ("a cat at night", {"daylight", "sunlight", "sun"}),
    ],
)
def test_sentences_never_contradict_the_idea(prompt: str, never: set[str]) -> None:
    assert additions_over_seeds(prompt, "wan").isdisjoint(never)


def test_words_in_quotes_decide_nothing() -> None:
    lit = visual_categories(content_words(added('a cat with a sign "NIGHT LIGHT"')))
    assert "light" in lit
    assert "photograph" not in words(enhance('a drawing, "PHOTO"'))


def test_class_words_match_whole_words_only() -> None:
    assert added("a catalogue of scars") != ""
    assert "lens" not in words(enhance("a catalogue of scars"))


def every_term() -> list[str]:
    pairs = [*rule_terms.LIGHT.values(), *rule_terms.PALETTES.values(), *rule_terms.CAMERA,
             *rule_terms.TEXTURES.values(), rule_terms.COMPOSITION, rule_terms.PHOTO_MEDIUMS,
             rule_terms.DRAWN_MEDIUMS, rule_terms.DRAWN_TEXTURES, rule_terms.SUBTLE_MOTIONS,
             rule_terms.STEADY_MOTIONS]  # fmt: skip
    joined = [f"{one} {two}" for pair in pairs for one in pair[0] for two in pair[1]]
    return [*joined, *rule_terms.LIGHT_ACTIONS, *rule_terms.FINISHES, *rule_terms.PACES]


def test_no_term_names_a_person_a_negation_or_mere_quality() -> None:
    for term in every_term():
        assert not names_person(term), term
        assert not negates(term), term
        assert not is_boilerplate(term), term


def test_tags_hold_no_separator_of_their_own() -> None:
    for seed in range(40):
        raw = enhance("a cat", seed=seed)
        assert all(2 <= len(tag.split()) <= 9 for tag in raw.split(", "))


def test_an_idea_of_nothing_but_syntax_is_left_alone() -> None:
    assert enhance("<lora:x:1> BREAK") == ""
    assert enhance("???") == "???"


@settings(deadline=None)
@given(st.text(max_size=120), st.sampled_from(["sdxl", "wan", "hunyuan_video", "other"]))
def test_any_idea_fits_after_the_rules_with_nothing_of_it_lost(prompt: str, target: str) -> None:
    masked = protect(prompt)
    raw = enhance_by_rules(masked, target=target, seed=5)
    style = "sentences" if target in {"wan", "hunyuan_video"} else "tags"
    fitted = fit(raw, masked, limit=900, counter=CharacterCounter(), style=style)  # type: ignore[arg-type]  # a literal, chosen above
    assert fitted.dropped == ()
    assert fitted.tokens <= 900
