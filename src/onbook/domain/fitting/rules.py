"""The rules enhancer: what is added to an idea when no model can be asked (fallback level 3).

It answers in the form of a model's output, the idea first, and passes the same fitting. Nothing
is random: seed and idea choose every term, so a prompt is enhanced alike on every machine.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from onbook.domain.fitting import rule_terms as terms
from onbook.domain.fitting.words import words
from onbook.domain.must_keep import Masked, opaque_spans

_SEPARATORS = " .,;:!?\uff0c\u3002\u3001"


def enhance_by_rules(masked: Masked, *, target: str, seed: int) -> str:
    """Return the idea with rule-made additions, in the form of a model's raw output.

    ``target`` ``wan``, or any other with "video" in its name, gets sentences about movement;
    every other target gets tags. An idea without words is returned as it is: there is nothing
    to enhance. The additions contradict neither the time, the medium, the colours, the framing
    nor the movement that the idea names, and bring in nobody.
    """
    if not words(masked.text):
        return masked.text
    idea = _Idea(masked.text, f"{seed}\x1f{target}\x1f{masked.text}")
    if target.startswith("wan") or "video" in target:
        return _sentences(idea)
    return ", ".join([masked.text.rstrip(_SEPARATORS), *_tags(idea)])


@dataclass(frozen=True)
class _Idea:
    text: str
    key: str

    @cached_property
    def said(self) -> frozenset[str]:
        """Return the words of the idea, and its compound words' parts, outside quotes."""
        plain = list(self.text)
        for start, end in opaque_spans(self.text):
            plain[start:end] = " " * (end - start)
        found = words("".join(plain))
        return frozenset(found) | {part for word in found for part in word.split("-")}

    @cached_property
    def subject(self) -> str:
        """Return the class of the subject: the first class word decides, as in English it does."""
        for word in words(self.text):
            for name, members in terms.SUBJECTS.items():
                if word in members:
                    return name
        return "abstract"

    @property
    def drawn(self) -> bool:
        """Say whether the idea names a medium that no camera makes."""
        return self.has(terms.PAINTED)

    def has(self, members: frozenset[str]) -> bool:
        """Say whether the idea names one of ``members``."""
        return not self.said.isdisjoint(members)

    def pick(self, slot: str, options: Sequence[str]) -> str:
        """Return the option that seed and idea choose for ``slot``."""
        digest = hashlib.sha256(f"{slot}\x1f{self.key}".encode("utf-8", "replace")).digest()
        return options[int.from_bytes(digest[:8]) % len(options)]

    def pair(self, slot: str, pair: terms.Pair) -> str:
        """Return one phrase of two independently chosen parts."""
        return f"{self.pick(slot + ' 1', pair[0])} {self.pick(slot + ' 2', pair[1])}"


def _tags(idea: _Idea) -> list[str]:
    tags: list[str] = []
    named = idea.drawn or idea.has(terms.PHOTOGRAPHIC)
    fantastic = idea.has(terms.FANTASTIC)
    # An idea of no known class may be anything: it gets no medium that it did not name.
    known = idea.subject != "abstract" or idea.has(terms.PHOTOGRAPHIC)
    photographic = known and not idea.drawn and (named or not fantastic)
    if not named and (photographic or fantastic):
        mediums = terms.PHOTO_MEDIUMS if photographic else terms.DRAWN_MEDIUMS
        tags.append(idea.pair("medium", mediums))
    if not idea.has(terms.LIT):
        tags.append(_light(idea))
    if not idea.has(terms.FRAMING):
        tags.append(idea.pair("composition", terms.COMPOSITION))
    if photographic and not idea.has(terms.LENS):
        tags.append(_lens(idea))
    tags.append(_palette(idea))
    drawn = idea.drawn or (fantastic and not photographic)
    tags.append(_texture(idea, drawn=drawn))
    return tags


def _lens(idea: _Idea) -> str:
    return idea.pick("lens form", terms.LENS_FORMS).format(
        lens=idea.pick("lens", terms.LENSES[idea.subject]),
        aperture=idea.pick("aperture", terms.APERTURES),
        depth=idea.pick("depth", terms.DEPTHS),
    )


def _light(idea: _Idea) -> str:
    """Return light that agrees with the time, the weather and the place of the idea."""
    found = next((time for time, members in terms.TIMES if idea.has(members)), None)
    if found is None:
        found = {
            "landscape": "day",
            "city": "day",
            "vehicle": "day",
            "food": "studio",
            "object": "studio",
        }.get(idea.subject, "neutral")
    if found == "none" or (idea.drawn and found == "studio"):
        found = "neutral"
    return idea.pair("light", terms.LIGHT[found])


def _palette(idea: _Idea) -> str:
    monochrome = idea.has(terms.MONOCHROME) or {"black", "white", "and"} <= idea.said
    kind = "monochrome" if monochrome else "colored" if idea.has(terms.COLORS) else "free"
    if kind == "monochrome" and not idea.has(terms.MONOCHROME):
        # "A black dog and a white cat" is no order for a picture without colours.
        kind = "monochrome" if "black and white" in idea.text.casefold() else "colored"
    return idea.pair("palette", terms.PALETTES[kind])


def _texture(idea: _Idea, *, drawn: bool) -> str:
    return idea.pair("texture", terms.DRAWN_TEXTURES if drawn else terms.TEXTURES[idea.subject])


def _sentences(idea: _Idea) -> str:
    parts = [f"{idea.text.rstrip(_SEPARATORS)}, {_motion(idea)}"]
    if not idea.has(terms.CAMERA_MOVES):
        form = int(idea.pick("camera form", ("0", "1", "2")))
        parts.append(idea.pair("camera", terms.CAMERA[form]))
    if not idea.has(terms.LIT):
        parts.append(f"{_light(idea).capitalize()} {idea.pick('action', terms.LIGHT_ACTIONS)}")
    texture = _texture(idea, drawn=idea.drawn)
    parts.append(f"{idea.pick('finish', terms.FINISHES)} {_palette(idea)} and {texture}")
    return ". ".join(parts) + "."


def _motion(idea: _Idea) -> str:
    """Return a phrase of movement with speed and direction that the idea leaves open."""
    verbs = terms.MOTIONS.get(idea.subject)
    if idea.has(terms.STILL):
        return idea.pair("motion", terms.SUBTLE_MOTIONS)
    moving = any(len(word) > 4 and word.endswith("ing") for word in idea.said)
    foreign = not any(word.isascii() for word in idea.said)
    if foreign or (verbs and (moving or idea.has(terms.DIRECTIONS))):
        return idea.pair("motion", terms.STEADY_MOTIONS)
    if verbs is None:
        return idea.pair("motion", terms.SUBTLE_MOTIONS)
    pace, heading = idea.pick("pace", terms.PACES), idea.pick("heading", terms.HEADINGS)
    return f"{idea.pick('verb', verbs)} {pace} {heading}"
