"""The first content-mode detector: tiers of whole words, their company, and re-spelled words."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from onbook.domain.content_mode.decision import Detection, DetectorIdentity, Span, Verdict
from onbook.domain.content_mode.folding import Folded, fold
from onbook.domain.content_mode.lexicon import TIERS, Lexicon
from onbook.domain.content_mode.matching import (
    BENIGN,
    DEPICTED,
    GUARDED,
    HARD,
    PERSON,
    UNCLEAR,
    Hit,
    TermMatcher,
)
from onbook.domain.content_mode.respelling import Respellings
from onbook.domain.content_mode.tokens import tokenize

NAME = "lexicon"

_SEXUAL_LABELS = frozenset((*TIERS, GUARDED))
_CLOSE_ONLY = frozenset(("anatomy", "coarse"))
# Words between a body word and a word for a minor that still make one statement about both.
_CLOSE_WORDS = 3
_CATEGORIES = dict.fromkeys((*TIERS, GUARDED), "sexual") | {
    HARD: "minor",
    UNCLEAR: "minor",
    PERSON: "person",
}
_UNCLEAR_SCORE = 0.8
# The part of the nsfw threshold that coarse words can reach together.
_COARSE_LIMIT = 0.75

_REASONS: dict[Verdict, str] = {
    "sfw": "No sexual content was found.",
    "nsfw": "Sexual content was found.",
    "refused": "Sexual content about a minor or a person of unclear age was found.",
}
_REASON_BELOW = "Single words with a sexual sense were found, but too few to call the text nsfw."


class LexiconDetector:
    """Decides by the words of a `Lexicon`; see `ContentModeDetector`.

    Text is refused where a sexual sign and a sign of a minor, or of an unclear age, are both in
    it. No word takes a sign back: benign contexts lower only the score of weak signs, between
    sfw and nsfw, and a word with another sense is ignored only directly beside its neighbour.
    A child in the subject of a religious painting is no sign where only nursing's body words are.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self._weights = lexicon.weights
        self._identity = DetectorIdentity(
            name=NAME, version=lexicon.version, ruleset_sha256=lexicon.sha256
        )
        self._matcher = TermMatcher(lexicon)
        self._respellings = Respellings(
            self._matcher.vocabulary, fillers=lexicon.fillers, whole_words=lexicon.whole_words
        )
        self._may_show = lexicon.depictions.may_show
        self._lowers = {BENIGN + context.name: context.lowers for context in lexicon.benign}
        weights = lexicon.weights
        self._tier_weights = {
            "strong": weights.strong,
            "weak": weights.weak,
            "anatomy": weights.anatomy,
            "context": weights.context,
            "coarse": weights.coarse,
            GUARDED: weights.context,
        }

    @property
    def identity(self) -> DetectorIdentity:
        """The lexicon's version and digest under the name ``lexicon``."""
        return self._identity

    def detect(self, text: str) -> Detection:
        """Return what ``text`` is, in time linear in its length; never raises."""
        folded = fold(text)
        tokens = tokenize(folded.text)
        hits = self._matcher.match(tokens)
        unspaced = self._matcher.match_unspaced(folded.text)
        about_minor = _about_minor(hits, unspaced, self._may_show)
        resolved = self._respellings.resolve(folded.text, tokens)
        if resolved is not None:
            # A second reading adds hits and removes none.
            others = self._matcher.match(resolved)
            about_minor = about_minor or _about_minor(others, unspaced, self._may_show)
            hits += others
        hits += unspaced
        if not about_minor:
            hits = [hit for hit in hits if hit.label != GUARDED]
        return self._judge(hits, folded, about_minor=about_minor)

    def _judge(self, hits: Sequence[Hit], folded: Folded, *, about_minor: bool) -> Detection:
        sexual = self._sexual_score(hits)
        if not sexual:
            return Detection("sfw", 0.0, {}, (), _REASONS["sfw"])
        labels = {hit.label for hit in hits}
        categories = {"sexual": sexual}
        if HARD in labels or UNCLEAR in labels:
            categories["minor"] = 1.0 if HARD in labels else _UNCLEAR_SCORE
        score = sexual
        if PERSON in labels and labels & {"strong", "weak", "context"}:
            categories["person"] = self._weights.person
            score = min(1.0, sexual + self._weights.person)
        mode: Verdict
        if about_minor:
            mode, score = "refused", max(score, categories["minor"])
        else:
            mode = "nsfw" if score >= self._weights.nsfw_threshold else "sfw"
        return Detection(
            mode=mode,
            score=round(score, 4),
            categories=categories,
            matched=_spans(hits, folded, categories),
            reason=_REASON_BELOW if mode == "sfw" else _REASONS[mode],
        )

    def _sexual_score(self, hits: Iterable[Hit]) -> float:
        """Return the sum over distinct terms, at most 1; benign contexts lower all but strong."""
        terms: dict[str, str] = {}
        lowered: set[str] = set()
        for hit in hits:
            if hit.label in _SEXUAL_LABELS:
                terms[hit.term] = hit.label
            elif hit.label in self._lowers:
                lowered |= self._lowers[hit.label]
        total = coarse = 0.0
        for term, label in terms.items():
            if term.endswith("s") and term[:-1] in terms:
                continue
            is_lowered = label != "strong" and (term in lowered or label in lowered)
            factor = self._weights.benign_factor if is_lowered else 1.0
            if label == "coarse":
                coarse += self._tier_weights[label] * factor
            else:
                total += self._tier_weights[label] * factor
        # Swearing alone, however much of it, is not sexual content.
        coarse = min(coarse, _COARSE_LIMIT * self._weights.nsfw_threshold)
        return min(1.0, round(total + coarse, 4))


def _without_depicted(hits: Sequence[Hit], may_show: frozenset[str]) -> Sequence[Hit]:
    """Return the hits without the child in a subject of art, if all else is ``may_show``."""
    depicted = {
        at for hit in hits if hit.label == DEPICTED for at in range(hit.first, hit.last + 1)
    }
    if not depicted or any(
        hit.label in _SEXUAL_LABELS and hit.term not in may_show for hit in hits
    ):
        return hits
    return [hit for hit in hits if hit.first not in depicted]


def _about_minor(hits: Sequence[Hit], unspaced: Sequence[Hit], may_show: frozenset[str]) -> bool:
    """Tell whether a sexual sign and a minor come together.

    Body and coarse words count only close to the minor (in scripts without spaces: anywhere);
    every other sexual sign counts wherever it is.
    """
    everything = _without_depicted([*hits, *unspaced], may_show)
    if not any(hit.label in (HARD, UNCLEAR) for hit in everything):
        return False
    if any(hit.label in _SEXUAL_LABELS - _CLOSE_ONLY for hit in everything):
        return True
    if unspaced:
        return any(hit.label in _CLOSE_ONLY for hit in everything)
    close = sorted(
        (hit for hit in everything if hit.label in (HARD, UNCLEAR) or hit.label in _CLOSE_ONLY),
        key=lambda hit: hit.first,
    )
    # Neighbours in order are enough: the closest pair of the two kinds is always adjacent.
    for left, right in pairwise(close):
        both = (left.label in _CLOSE_ONLY) != (right.label in _CLOSE_ONLY)
        if both and right.first - left.last - 1 <= _CLOSE_WORDS:
            return True
    return False


def _spans(hits: Iterable[Hit], folded: Folded, categories: Iterable[str]) -> tuple[Span, ...]:
    """Return where the hits of the given categories lie in the original text, in order."""
    wanted = frozenset(categories)
    found = {
        (*folded.original(hit.start, hit.end), category)
        for hit in hits
        if (category := _CATEGORIES.get(hit.label)) in wanted and category is not None
    }
    return tuple(Span(start, end, category) for start, end, category in sorted(found))
