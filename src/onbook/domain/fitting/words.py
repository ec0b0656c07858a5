"""Word lists and word sets that the fitting rules share.

The lists are small on purpose: each is the common core of its field, matched on whole words.
"""

import re

WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


def word_set(listed: str) -> frozenset[str]:
    """Return the space-separated words of ``listed`` as a set."""
    return frozenset(listed.split())


STOPWORDS = word_set(
    "a an the of in on at to for from by with and or but as is are was were be been being it its "
    "this that these those there his her their our your my he she they we you i into onto over "
    "under up down out off so than then while where which who whose now just also"
)

# Stop words that change what is drawn: where something is, or whose it is.
_TELLING = word_set(
    "in on at to for from by with or into onto over under up down out off than while so then "
    "his her their our your my he she they we you i"
)
_FILLERS = STOPWORDS - _TELLING

# Quality words that say nothing a text encoder can draw.
BOILERPLATE_WORDS = word_set(
    "masterpiece masterpieces best high higher highest top quality ultra highly extremely super "
    "insanely hyper incredibly very detailed detail details detailing intricate intricately 4k 8k "
    "16k uhd hd fhd resolution res highres absurdres hires award award-winning winning winner "
    "trending artstation deviantart cgsociety professional perfect amazing stunning beautiful "
    "gorgeous breathtaking epic awesome ultra-detailed highly-detailed high-quality "
    "high-resolution best-quality hyper-detailed hyperdetailed ultra-hd flawless"
)

# Words that name something visible which enhancers are asked to add, by category.
VISUAL_CATEGORIES: dict[str, frozenset[str]] = {
    "light": word_set(
        "light lights lighting lit backlit backlight backlighting sunlight sunlit sunbeam sunbeams "
        "moonlight moonlit daylight candlelight lamplight firelight glow glowing shadow shadows "
        "rays shafts highlights rim silhouette golden-hour sunset sunrise dawn dusk twilight "
        "midday neon lanterns volumetric ambient overcast softbox chiaroscuro"
    ),
    "camera": word_set(
        "camera lens shot close-up closeup macro telephoto wide-angle focus bokeh depth aperture "
        "35mm 50mm 85mm 24mm 100mm 135mm zoom zooms pan pans panning tilt tilts dolly tracking "
        "tracks orbit orbits crane aerial drone handheld pushes pulls glides viewpoint"
    ),
    "medium": word_set(
        "photo photograph photography photographic film cinematic painting oil watercolor "
        "watercolour acrylic gouache sketch ink charcoal pastel illustration render rendering "
        "anime cartoon comic pixel woodcut etching engraving lithograph collage sculpture "
        "polaroid documentary"
    ),
    "composition": word_set(
        "composition centered centred symmetrical symmetry framing framed frame foreground "
        "background midground thirds negative-space angle low-angle high-angle eye-level overhead "
        "top-down perspective diagonal layered wide portrait profile vignette"
    ),
    "palette": word_set(
        "palette color colors colour colours tones tonal hues muted pastel saturated desaturated "
        "monochrome warm cool earthy vivid red orange yellow green teal blue indigo violet purple "
        "pink magenta crimson amber gold golden silver bronze copper ochre beige cream ivory "
        "white black grey gray brown turquoise emerald"
    ),
    "texture": word_set(
        "texture textures textured grain grainy matte glossy polished rough smooth weathered worn "
        "velvet silk wool linen leather fur feathers wooden stone marble metal metallic rust rusty "
        "glass ceramic dewy wet dusty frost frosted brushstrokes impasto"
    ),
    "setting": word_set(
        "forest garden street city village mountain mountains river lake sea ocean beach desert "
        "meadow field room kitchen cafe studio workshop library alley rooftop harbor harbour "
        "market park sky clouds fog mist rain snow storm wind indoors outdoors interior"
    ),
    "mood": word_set(
        "calm quiet serene tranquil peaceful moody dramatic gentle tender somber melancholic "
        "joyful playful mysterious dreamy nostalgic intimate solemn tense lively cozy"
    ),
    "motion": word_set(
        "slowly slow gently steadily drifts drifting sways swaying moves moving turns turning "
        "walks walking runs running flows flowing ripples rippling left right upward downward "
        "forward backward toward towards"
    ),
}
_CATEGORY_OF = {
    word: category for category, members in VISUAL_CATEGORIES.items() for word in members
}

PERSON_WORDS = word_set(
    "person people persons human humans man men woman women boy boys girl girls child children "
    "kid kids baby babies toddler lady ladies gentleman gentlemen guy guys couple crowd crowds "
    "figure figures model models teenager teenagers adult adults pedestrian pedestrians passerby "
    "passersby tourist tourists villager villagers traveler travelers traveller hiker hikers "
    "rider driver fisherman farmer soldier warrior worker workers dancer spectator spectators "
    "onlooker onlookers patron patrons bartender barista customer customers shopper shoppers "
    "commuter commuters dancers farmhand farmhands shopkeeper vendor vendors performer performers "
    "resident residents guest guests diner diners visitor visitors runner runners cyclist cyclists "
    "surfer surfers skier skiers musicians bystander bystanders 1girl 1boy 2girls 2boys 1man 1woman"
)
# In the user's text these too say that a person is wanted.
PERSON_HINTS = PERSON_WORDS | word_set(
    "he she him her his hers someone somebody anyone everyone myself me i we us friend friends "
    "family mother father mom dad brother sister son daughter grandmother grandfather bride groom "
    "king queen prince princess knight wizard witch nurse doctor chef artist astronaut samurai "
    "ninja pirate cowboy musician singer actor actress player players athlete team student teacher "
    "student students monk priest clown detective police face portrait selfie hair beard hands "
    "portrait-photo fashion wedding ceo president santa jesus elf fairy mermaid vampire"
)
# These also name things, or are verbs.
_AMBIGUOUS = frozenset(("model", "models", "figure", "figures", "crowd", "crowds"))
_OBJECT_AFTER = frozenset(("the", "a", "an", "each", "every", "its"))
_THING_BEFORE = word_set("3d scale toy car train action plane ship clay plastic small")
_NEGATION = re.compile(
    r"(?<![\w-])(?:no|not|without|never|none|avoid(?:ing)?|free of|devoid of|absence of)(?![\w-])"
    r"|n['\u2019]t\b",
    re.IGNORECASE,
)


_CAMERA_DIRECTIVES = word_set(
    "camera zoom zooms zooming pan pans panning tilt tilts tilting dolly tracking orbit orbits "
    "racking handheld timelapse time-lapse pov crane tripod shaking"
)
_CAMERA_WORDS = _CAMERA_DIRECTIVES | word_set(
    "lens gimbal drone framing frame shot view viewpoint slide take focus"
)


def words(text: str) -> list[str]:
    """Return the words of ``text``, folded, in order."""
    return WORD.findall(text.casefold())


def content_words(text: str) -> frozenset[str]:
    """Return the words that carry meaning; all words where none does."""
    found = frozenset(words(text))
    return (found - STOPWORDS) or found


def telling_words(text: str) -> tuple[str, ...]:
    """Return, in order, the words by which one clause says another thing than the next.

    Those are the content words, places and pronouns; all words where there is none.
    """
    found = words(text)
    return tuple(word for word in found if word not in _FILLERS) or tuple(found)


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the share of common members, 0..1; 0 where both are empty."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0


def is_boilerplate(text: str) -> bool:
    """Say whether ``text`` is nothing but quality words."""
    meaningful = frozenset(words(text)) - STOPWORDS
    return bool(meaningful) and meaningful <= BOILERPLATE_WORDS


def visual_categories(found: frozenset[str]) -> frozenset[str]:
    """Return the visual categories that some word of ``found`` belongs to."""
    return frozenset(_CATEGORY_OF[word] for word in found if word in _CATEGORY_OF)


def visual_words(found: frozenset[str]) -> frozenset[str]:
    """Return the words of ``found`` that name something visible."""
    return frozenset(word for word in found if word in _CATEGORY_OF)


def names_person(text: str) -> bool:
    """Say whether ``text`` puts a person into the picture."""
    found = ["", *words(text), ""]
    return any(
        word in PERSON_WORDS
        and not (word in _AMBIGUOUS and (before in _THING_BEFORE or after in _OBJECT_AFTER))
        for before, word, after in zip(found, found[1:], found[2:], strict=False)
    )


def wants_person(text: str) -> bool:
    """Say whether the user's text has a person in it, in plain words or by a hint."""
    return not PERSON_HINTS.isdisjoint(words(text))


def negates(text: str) -> bool:
    """Say whether ``text`` holds a negation, which text encoders read as a mention."""
    return _NEGATION.search(text) is not None


def directs_camera(text: str) -> bool:
    """Say whether ``text`` tells the camera what to do."""
    return not _CAMERA_DIRECTIVES.isdisjoint(words(text))


def shows_camera(text: str) -> bool:
    """Say whether ``text`` speaks of the camera, as a sentence about its move does."""
    return not _CAMERA_WORDS.isdisjoint(words(text))
