"""The terms of the lexicon detector, parsed from their data file and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onbook.domain.content_mode.folding import fold

TIERS = ("strong", "weak", "anatomy", "context", "coarse")


class LexiconError(ValueError):
    """The lexicon data is not what the detector needs; the message names the entry."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What one hit of each tier adds to the score (0..1), and the score from which text is nsfw.

    ``benign_factor`` is the part of any hit that is not strong that a benign context leaves.
    """

    strong: float
    weak: float
    anatomy: float
    context: float
    coarse: float
    person: float
    nsfw_threshold: float
    benign_factor: float


@dataclass(frozen=True, slots=True)
class Collocation:
    """Words that mean something else directly beside certain neighbours.

    ``ends_phrase``: only where the phrase ends after it or a link word follows. ``not_of_minors``:
    the sexual sense counts again where a minor, or a person of unclear age, is in the text.
    """

    words: frozenset[str]
    followed_by: frozenset[str]
    preceded_by: frozenset[str]
    ends_phrase: bool
    not_of_minors: bool


@dataclass(frozen=True, slots=True)
class Depictions:
    """Subjects of religious art that have a child in their name, and the body words they allow."""

    subjects: frozenset[str]
    may_show: frozenset[str]


@dataclass(frozen=True, slots=True)
class BenignContext:
    """Words of a harmless field, and the terms and tiers whose weight they lower."""

    name: str
    words: frozenset[str]
    lowers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Ages:
    """How an age is written: number words, units after it, words before it (all folded)."""

    adult_from: int
    words: Mapping[str, int]
    units: frozenset[str]
    attached: frozenset[str]
    prefixes: frozenset[str]
    joins: frozenset[str]
    person_words: frozenset[str]
    persons: frozenset[str]
    cjk_units: tuple[str, ...]
    not_ages: frozenset[str]
    thing_units: frozenset[str]
    things: frozenset[str]
    thing_modifiers: frozenset[str]
    links: frozenset[str]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """All rules of the detector. Terms are folded; a phrase is words with one space between.

    ``sexual`` maps a tier to its terms, ``minor`` maps ``hard`` and ``unclear`` to theirs.
    """

    version: str
    sha256: str
    weights: Weights
    sexual: Mapping[str, frozenset[str]]
    minor: Mapping[str, frozenset[str]]
    person: frozenset[str]
    benign: tuple[BenignContext, ...]
    collocations: tuple[Collocation, ...]
    depictions: Depictions
    links: frozenset[str]
    ages: Ages
    fillers: frozenset[str]
    whole_words: frozenset[str]


def _table(data: Mapping[str, object], name: str, *, where: str = "") -> Mapping[str, object]:
    value = data.get(name)
    if not isinstance(value, Mapping):
        raise LexiconError(f"'{where}{name}' must be a table.")
    return {str(key): entry for key, entry in value.items()}


def _terms(value: object, *, where: str) -> frozenset[str]:
    """Return the folded terms of a list; plurals are not added."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise LexiconError(f"'{where}' must be a list of terms.")
    found: set[str] = set()
    for term in value:
        folded = " ".join(fold(term).text.split()) if isinstance(term, str) else ""
        if not folded:
            raise LexiconError(f"'{where}' has an entry that is not a term.")
        found.add(folded)
    return frozenset(found)


def _number(data: Mapping[str, object], name: str, *, where: str) -> float:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise LexiconError(f"'{where}.{name}' must be a number above 0 and at most 1.")
    return float(value)


def with_plurals(terms: frozenset[str]) -> frozenset[str]:
    """Return the terms and, of each whose last word is Latin and longer than two, its -s form."""
    return terms | {
        f"{term}s"
        for term in terms
        if term.isascii() and not term.endswith("s") and term[-1:].isalpha() and len(term) > 2
    }


def _languages(data: Mapping[str, object], name: str, *, where: str) -> frozenset[str]:
    lists = _table(data, name, where=f"{where}.")
    if "en" not in lists:
        raise LexiconError(f"'{where}.{name}.en' is missing.")
    terms: frozenset[str] = frozenset()
    for language, value in lists.items():
        found = _terms(value, where=f"{where}.{name}.{language}")
        terms |= with_plurals(found) if language == "en" else found
    return terms


def _entries(data: Mapping[str, object], name: str) -> Sequence[Mapping[str, object]]:
    value = data.get(name, [])
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise LexiconError(f"'{name}' must be a list of tables.")
    return value


def _benign(entry: Mapping[str, object]) -> BenignContext:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise LexiconError("A benign context needs a 'name'.")
    lowers = _terms(entry.get("lowers"), where=f"benign.{name}.lowers")
    if "strong" in lowers:
        raise LexiconError(f"'benign.{name}.lowers' must not name the strong tier.")
    words = with_plurals(_terms(entry.get("words"), where=f"benign.{name}.words"))
    return BenignContext(name=name, words=words, lowers=lowers)


def _collocation(entry: Mapping[str, object]) -> Collocation:
    words = _terms(entry.get("words"), where="collocations.words")
    after = _terms(entry.get("followed_by", []), where="collocations.followed_by")
    before = _terms(entry.get("preceded_by", []), where="collocations.preceded_by")
    if not after and not before:
        raise LexiconError("A collocation needs 'followed_by' or 'preceded_by'.")
    return Collocation(
        words=words,
        followed_by=after,
        preceded_by=before,
        ends_phrase=_flag(entry, "ends_phrase"),
        not_of_minors=_flag(entry, "not_of_minors"),
    )


def _flag(entry: Mapping[str, object], name: str) -> bool:
    value = entry.get(name, False)
    if not isinstance(value, bool):
        raise LexiconError(f"'collocations.{name}' must be true or false.")
    return value


def _depictions(data: Mapping[str, object]) -> Depictions:
    return Depictions(
        subjects=_terms(data.get("subjects"), where="depictions.subjects"),
        may_show=with_plurals(_terms(data.get("may_show"), where="depictions.may_show")),
    )


def _ages(data: Mapping[str, object], *, links: frozenset[str]) -> Ages:
    adult_from = data.get("adult_from")
    if not isinstance(adult_from, int) or isinstance(adult_from, bool) or adult_from < 18:
        raise LexiconError("'ages.adult_from' must be a whole number of at least 18.")
    words: dict[str, int] = {}
    for word, value in _table(data, "words", where="ages.").items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise LexiconError("'ages.words' must map words to whole numbers.")
        words[word] = value
    return Ages(
        adult_from=adult_from,
        words=words,
        units=_terms(data.get("units"), where="ages.units"),
        attached=_terms(data.get("attached"), where="ages.attached"),
        prefixes=_terms(data.get("prefixes"), where="ages.prefixes"),
        joins=_terms(data.get("joins"), where="ages.joins"),
        person_words=_terms(data.get("person_words"), where="ages.person_words"),
        cjk_units=tuple(sorted(_terms(data.get("cjk_units"), where="ages.cjk_units"))),
        persons=_terms(data.get("persons"), where="ages.persons"),
        not_ages=_terms(data.get("not_ages"), where="ages.not_ages"),
        thing_units=_terms(data.get("thing_units"), where="ages.thing_units"),
        things=with_plurals(_terms(data.get("things"), where="ages.things")),
        thing_modifiers=_terms(data.get("thing_modifiers"), where="ages.thing_modifiers"),
        links=links,
    )


def parse_lexicon(data: Mapping[str, object], *, sha256: str) -> Lexicon:
    """Return the lexicon in ``data`` (the parsed TOML file).

    Args:
        data: The tables of ``lexicon.toml``.
        sha256: The hex digest of the file, kept as the ruleset's digest.

    Raises:
        LexiconError: An entry is missing or has the wrong shape; the message names it.
    """
    version = data.get("version")
    if not isinstance(version, str) or not version:
        raise LexiconError("'version' must be a text.")
    weights = _table(data, "weights")
    sexual = _table(data, "sexual")
    minor = _table(data, "minor")
    respelling = _table(data, "respelling")
    links = _terms(data.get("links"), where="links")
    return Lexicon(
        version=version,
        sha256=sha256,
        weights=Weights(
            **{name: _number(weights, name, where="weights") for name in Weights.__slots__}
        ),
        sexual={tier: _languages(sexual, tier, where="sexual") for tier in TIERS},
        minor={kind: _languages(minor, kind, where="minor") for kind in ("hard", "unclear")},
        person=_languages(data, "person", where="lexicon"),
        benign=tuple(_benign(entry) for entry in _entries(data, "benign")),
        collocations=tuple(_collocation(entry) for entry in _entries(data, "collocations")),
        depictions=_depictions(_table(data, "depictions")),
        links=links,
        ages=_ages(_table(data, "ages"), links=links),
        fillers=_terms(respelling.get("fillers"), where="respelling.fillers"),
        whole_words=_terms(respelling.get("whole_words"), where="respelling.whole_words"),
    )
