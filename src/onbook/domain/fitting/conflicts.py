"""What a model added against what the user asked for: time, weather, framing, medium, colour.

A small model picks a light or a view without reading the idea. What contradicts the idea goes;
what merely adds to it stays.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from onbook.domain.fitting.additions import Unit
from onbook.domain.fitting.clauses import Style
from onbook.domain.fitting.words import word_set, words

_TIMES: Final = {
    "night": word_set(
        "night nighttime midnight moon moonlit moonlight starlight starry stars nocturnal"
    ),
    "dawn": word_set("dawn sunrise morning daybreak"),
    "day": word_set(
        "noon midday daylight daytime sun sunny sunlit sunlight sunshine sunwashed afternoon"
    ),
    "dusk": word_set("dusk sunset twilight evening afterglow"),
}
# Light that people make says that it is dark around it.
_AFTER_DARK: Final = word_set(
    "candle candles candlelit candle-lit candlelight neon bonfire campfire torch torches lantern "
    "lanterns fireworks nightclub"
)
_BAD_WEATHER: Final = word_set(
    "storm stormy lightning thunder thunderstorm rain rainy raining rainstorm downpour drizzle "
    "blizzard snowstorm hail overcast"
)
_SUN: Final = word_set("sun sunny sunlit sunlight sunshine sunwashed sunbeams midday")
_FRAMINGS: Final = word_set(
    "close-up closeup macro aerial drone overhead top-down topdown panorama panoramic isometric "
    "portrait full-body headshot bird's-eye fisheye low-angle high-angle eye-level"
)
_FRAMING_PHRASES: Final = (
    "wide shot", "wide angle", "wide-angle", "close up", "top down", "low angle", "high angle",
    "eye level", "side view", "front view", "rear view", "from above", "from below", "full body",
    "bird's eye", "establishing shot", "medium shot", "long shot",
)  # fmt: skip
_FRAMING_WORDS: Final = _FRAMINGS | word_set(
    "angle view framing shot perspective establishing telephoto cropped elevated eye"
)
_COLOURLESS: Final = word_set("monochrome grayscale greyscale noir sepia")
_COLOURLESS_PHRASES: Final = ("black and white", "black-and-white", "b&w")
_COLOUR_WORDS: Final = word_set(
    "palette color colors colour colours pastel hues vivid saturated jewel russet honeyed candy "
    "sunwashed"
)
_MADE: Final = word_set(
    "painting watercolor watercolour vector logo icon sketch drawing pencil ink anime manga "
    "cartoon "
    "pixel lowpoly low-poly isometric illustration comic origami lego claymation mosaic embroidery "
    "render 3d woodcut stencil sticker emoji infographic blueprint oil gouache pastels"
)
_CAMERA_ONLY: Final = word_set(
    "lens telephoto bokeh macro aperture film photograph photographic shutter 35mm 50mm 85mm"
)
_FLAT: Final = word_set("flat vector logo icon pixel sticker emoji stencil")
_DEPTH: Final = word_set(
    "texture textured textural grain grainy brushed patina reflections depth foreground background"
)
_BACKGROUNDS: Final = word_set("background backdrop")
_PLACES: Final = word_set("background backdrop surroundings setting environment distance")

# Words in -ing that name things.
_THINGS_IN_ING: Final = word_set(
    "building morning evening painting king ring spring ceiling wedding clothing string thing "
    "lightning wing ping sibling darling pudding earring sling swing bling offspring drawing "
    "duckling gosling sterling viking boeing beijing being nothing something everything anything "
    "living dining sleeping"
)
_STILL: Final = word_set(
    "still static motionless frozen parked sleeping asleep standing sitting lying resting "
    "locked-off"
)
_STILL_PHRASES: Final = ("no movement", "without movement", "no motion", "still life", "locked off")
_ING: Final = re.compile(r"^[a-z]{2,}ing$")


# Where a word or a phrase of the first two is in the idea, the words of the third are ruled out.
_RULES: Final[tuple[tuple[frozenset[str], tuple[str, ...], frozenset[str]], ...]] = (
    (_BAD_WEATHER, (), _SUN),
    (_FRAMINGS, _FRAMING_PHRASES, _FRAMING_WORDS),
    (_COLOURLESS, _COLOURLESS_PHRASES, _COLOUR_WORDS),
    (_MADE, (), _CAMERA_ONLY),
    (_FLAT, (), _DEPTH),
    (_BACKGROUNDS, (), _PLACES),
)
# A longer part of a sentence is more than a phrase in a list.
_SHORT_WORDS: Final = 5


def without_conflicts(
    units: Sequence[Unit], idea: str, style: Style
) -> tuple[tuple[Unit, ...], list[tuple[str, str]]]:
    """Return the units that agree with ``idea``, and name and text of each that was left out.

    A second motion goes too: a subject that runs, or that stands still, gets no other.
    """
    left: list[Unit] = []
    cut: list[tuple[str, str]] = []
    ruling = _ruling(idea)
    for index, unit in enumerate(units):
        parts = [unit.text] if style == "tags" else unit.text.split(", ")
        kept = list(parts)
        if style != "tags" and index == 0 and is_motion(parts[0]) and moves_already(idea):
            cut.append(("second_motion", kept.pop(0)))
        # Only a list of short phrases can lose one; any other sentence leans on each of its parts.
        if style == "tags" or all(len(words(part)) <= _SHORT_WORDS for part in parts):
            wrong = [part for part in kept if ruling.forbids(part)]
            cut += [("contradicts", part) for part in wrong]
            kept = [part for part in kept if part not in wrong]
        if kept:
            left.append(unit if len(kept) == len(parts) else replace(unit, text=", ".join(kept)))
    return tuple(left), cut


def contradicts(idea: str, addition: str) -> bool:
    """Say whether ``addition`` names another time, weather, framing, medium or colour."""
    return _ruling(idea).forbids(addition)


@dataclass(frozen=True, slots=True)
class _Ruling:
    """What an idea rules out: words, and times of day other than its own."""

    words: frozenset[str]
    times: frozenset[str]

    def forbids(self, addition: str) -> bool:
        added = frozenset(words(addition))
        if not added.isdisjoint(self.words):
            return True
        if not self.times:
            return False
        named = [name for name, terms in _TIMES.items() if not added.isdisjoint(terms)]
        return bool(named) and self.times.isdisjoint(named)


def _ruling(idea: str) -> _Ruling:
    asked, spoken = frozenset(words(idea)), f" {idea.lower()} "
    out: set[str] = set()
    for signs, phrases, ruled_out in _RULES:
        if not asked.isdisjoint(signs) or any(phrase in spoken for phrase in phrases):
            out |= ruled_out
    times = {name for name, terms in _TIMES.items() if not asked.isdisjoint(terms)}
    if not times and not asked.isdisjoint(_AFTER_DARK):
        times = {"night", "dusk"}
    return _Ruling(frozenset(out), frozenset(times))


def moves_already(idea: str) -> bool:
    """Say whether ``idea`` says how its subject moves, or that it does not."""
    found = words(idea)
    return (
        not _STILL.isdisjoint(found)
        or _holds(f" {idea.lower()} ", _STILL_PHRASES)
        or any(_ING.match(word) and word not in _THINGS_IN_ING for word in found)
    )


def is_motion(addition: str) -> bool:
    """Say whether ``addition`` begins with how the subject moves."""
    found = words(addition)
    return bool(found) and _ING.match(found[0]) is not None


def _holds(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)
