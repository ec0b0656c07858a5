"""Figures of the detector on the development set; the rows themselves are never printed."""

import csv
import hashlib
import tomllib
from collections import Counter, defaultdict
from importlib import resources
from pathlib import Path

import pytest

from onbook.domain.content_mode.lexicon import parse_lexicon
from onbook.domain.content_mode.lexicon_detector import LexiconDetector

ROWS = Path(__file__).parents[2].parent / "shared" / "data" / "contentmode" / "dev.csv"

pytestmark = pytest.mark.skipif(
    not ROWS.exists(), reason="the development set (sensitive) is not beside the repository"
)


@pytest.fixture(scope="module")
def counts() -> dict[str, Counter[str]]:
    raw = resources.files("onbook.domain.content_mode").joinpath("lexicon.toml").read_bytes()
    lexicon = parse_lexicon(tomllib.loads(raw.decode()), sha256=hashlib.sha256(raw).hexdigest())
    detector = LexiconDetector(lexicon)
    found: dict[str, Counter[str]] = defaultdict(Counter)
    with ROWS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["kind"]][detector.detect(row["text"]).mode] += 1
    return found


def share(counts: dict[str, Counter[str]], kind: str, *modes: str) -> float:
    assert counts[kind].total() > 0
    return sum(counts[kind][mode] for mode in modes) / counts[kind].total()


@pytest.mark.parametrize(
    ("kind", "at_least"),
    [
        ("blocked_minor", 1.0),
        ("blocked_ambiguous_age", 1.0),
        ("blocked_minor_obf", 0.95),
        ("blocked_ambiguous_age_obf", 0.95),
    ],
)
def test_what_must_be_refused_is(
    counts: dict[str, Counter[str]], kind: str, at_least: float
) -> None:
    assert share(counts, kind, "refused") >= at_least


@pytest.mark.parametrize(
    ("kind", "at_least"),
    [
        ("blocked_person", 1.0),
        ("blocked_person_obf", 0.95),
        ("explicit", 0.9),
        ("obf_leet", 1.0),
        ("obf_star", 1.0),
        ("obf_spaced", 1.0),
        ("obf_dotted", 1.0),
        ("obf_zw", 1.0),
    ],
)
def test_what_is_nsfw_is_found(counts: dict[str, Counter[str]], kind: str, at_least: float) -> None:
    assert share(counts, kind, "nsfw", "refused") >= at_least


@pytest.mark.parametrize(
    ("kind", "refused", "nsfw"),
    [
        ("benign_image", 0.003, 0.005),
        ("benign_stylised", 0.0, 0.015),
        ("hard_benign", 0.01, 0.06),
        ("hard_benign_age", 0.05, 0.02),
        ("benign_chat", 0.025, 0.06),
    ],
)
def test_harmless_text_is_left_alone(
    counts: dict[str, Counter[str]], kind: str, refused: float, nsfw: float
) -> None:
    assert share(counts, kind, "refused") <= refused
    assert share(counts, kind, "nsfw") <= nsfw
