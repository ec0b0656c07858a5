import copy
import tomllib
from importlib import resources

import pytest

from onbook.domain.content_mode.lexicon import LexiconError, parse_lexicon

DATA = tomllib.loads(
    resources.files("onbook.domain.content_mode").joinpath("lexicon.toml").read_text("utf-8")
)
SHA256 = "0" * 64


def _without(path: str) -> dict[str, object]:
    data: dict[str, object] = copy.deepcopy(DATA)
    *parents, last = path.split(".")
    table: dict[str, object] = data
    for name in parents:
        inner = table[name]
        assert isinstance(inner, dict)
        table = inner
    del table[last]
    return data


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("version", "version"),
        ("weights.weak", "weights.weak"),
        ("sexual.strong", "sexual.strong"),
        ("sexual.weak.en", "sexual.weak.en"),
        ("minor.hard", "minor.hard"),
        ("person", "person"),
        ("ages", "ages"),
        ("ages.adult_from", "ages.adult_from"),
        ("ages.units", "ages.units"),
        ("ages.things", "ages.things"),
        ("ages.persons", "ages.persons"),
        ("depictions.may_show", "depictions.may_show"),
        ("links", "links"),
        ("respelling.fillers", "respelling.fillers"),
    ],
)
def test_a_missing_entry_is_named(path: str, named: str) -> None:
    with pytest.raises(LexiconError, match=named):
        parse_lexicon(_without(path), sha256=SHA256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": DATA["weights"] | {"weak": 1.5}}, "weights.weak"),
        ({"ages": DATA["ages"] | {"adult_from": 16}}, "at least 18"),
        ({"collocations": [{"words": ["minor"]}]}, "followed_by"),
        ({"collocations": "minor"}, "list of tables"),
        (
            {"collocations": [{"words": ["x"], "followed_by": ["y"], "ends_phrase": 1}]},
            "ends_phrase",
        ),
        ({"benign": [{"name": "art", "words": ["statue"], "lowers": ["strong"]}]}, "strong"),
        ({"person": {"en": ["\u200b"]}}, "not a term"),
        ({"person": {"en": "celebrity"}}, "list of terms"),
    ],
)
def test_a_wrong_entry_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(LexiconError, match=message):
        parse_lexicon(DATA | changes, sha256=SHA256)


def test_no_term_is_in_two_sexual_tiers() -> None:
    lexicon = parse_lexicon(DATA, sha256=SHA256)
    tiers = list(lexicon.sexual.values())
    assert sum(map(len, tiers)) == len(frozenset().union(*tiers))
