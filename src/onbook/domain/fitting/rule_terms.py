"""The vocabulary of the rules enhancer: what it recognises, and the plain terms it may add.

Terms come in two parts that combine freely, so that a few words give many phrases.
"""

from onbook.domain.fitting.words import word_set

Pair = tuple[tuple[str, ...], tuple[str, ...]]

SUBJECTS: dict[str, frozenset[str]] = {
    "person": word_set(
        "person people man men woman women boy boys girl girls child children kid baby lady guy "
        "couple family friends portrait selfie bride dancer musician singer chef doctor nurse "
        "soldier knight astronaut wizard king queen princess prince cowboy samurai student "
        "teacher farmer worker athlete player 1girl 1boy she he"
    ),
    "animal": word_set(
        "animal animals cat cats kitten dog dogs puppy horse horses cow cows sheep bird birds owl "
        "eagle parrot chicken duck fox wolf bear bears lion tiger elephant elephants zebra zebras "
        "giraffe giraffes monkey panda raccoon rabbit mouse hamster frog turtle snake lizard fish "
        "shark whale dolphin jellyfish butterfly bee spider dragon sloth kangaroo koala deer"
    ),
    "food": word_set(
        "food cake pizza burger sandwich bread pasta noodles soup salad coffee tea wine beer "
        "fruit apple apples banana orange oranges broccoli carrot donut donuts cookie sushi "
        "cheese chocolate breakfast dinner dessert sauce rice"
    ),
    "vehicle": word_set(
        "car cars truck bus train motorcycle bicycle bike boat ship sailboat airplane plane "
        "helicopter spaceship rocket scooter skateboard tractor van tank submarine balloon"
    ),
    "city": word_set(
        "city cityscape skyline street alley building buildings tower skyscraper house cottage "
        "castle palace temple church cathedral bridge room kitchen bathroom bedroom office "
        "library museum store shop bar cafe restaurant station market architecture interior "
        "house opera barn lighthouse courtyard plaza downtown village ruins"
    ),
    "landscape": word_set(
        "landscape mountain mountains valley hill hills forest jungle tree trees beach coast sea "
        "ocean lake river waterfall desert canyon glacier cliff meadow field fields garden sky "
        "clouds island volcano cave park swamp tundra planet galaxy moon snow"
    ),
    "object": word_set(
        "bottle cup cups vase bowl chair chairs table couch sofa bed clock book books laptop phone "
        "keyboard mouse tv umbrella backpack backpacks suitcase handbag tie hat shoe shoes knife "
        "fork spoon scissors toothbrush toilet sink refrigerator oven toaster microwave bench kite "
        "snowboard surfboard frisbee bat glove ball racket teddy sign poster statue sculpture lamp "
        "candle box robot camera guitar piano violin drum watch ring sword skis cell glass bag "
        "glasses shirt t-shirt hydrant meter light remote drier"
    ),
}

PAINTED = word_set(
    "painting painted oil watercolor watercolour acrylic gouache sketch drawing drawn ink charcoal "
    "pastel illustration anime manga cartoon comic pixel 8-bit vector logo icon emoji woodcut "
    "engraving etching lithograph mosaic collage origami clay claymation lego voxel 3d render "
    "rendering cgi low-poly sculpture embroidery graffiti ukiyo-e cubism cubist impressionist "
    "impressionism surrealism surrealist expressionist pop-art poster tattoo stencil crayon "
    "cyberpunk picasso monet gogh hokusai dali ghibli pixar disney style isometric blueprint "
    "diagram hieroglyphs tapestry stained-glass"
)
PHOTOGRAPHIC = word_set("photo photograph photography photographic dslr film polaroid footage")
FANTASTIC = word_set(
    "dragon unicorn wizard fairy elf mermaid alien spaceship robot android cyborg ghost demon "
    "magic magical fantasy mythical goblin orc dinosaur superhero steampunk"
)
LENS = word_set("lens 24mm 35mm 50mm 85mm 100mm macro bokeh fisheye telephoto wide-angle aperture")
FRAMING = word_set(
    "close-up closeup close view angle overhead aerial panorama panoramic portrait "
    "composition centered centred framing symmetrical top-down perspective front side shot zoom"
)
CAMERA_MOVES = word_set(
    "camera zoom zooms zooming pan pans panning tilt tilts tilting dolly tracking orbit drone "
    "aerial handheld timelapse time-lapse racking pov static still frozen tableau fixed crane "
    "shaking slow-motion"
)
STILL = word_set("still frozen static tableau motionless standing sitting sits stands lying rests")
DIRECTIONS = word_set(
    "left right up down upward downward toward towards away forward backward into across around "
    "through over"
)
MONOCHROME = word_set("monochrome grayscale greyscale sepia noir black-and-white b&w")
COLORS = word_set(
    "red orange yellow green teal blue indigo violet purple pink magenta crimson amber gold golden "
    "silver bronze ochre beige cream white black grey gray brown turquoise colorful colourful "
    "colors colours pastel neon vibrant rainbow muted saturated palette warm cool tones"
)
LIT = word_set(
    "light lights lighting lit backlit backlight sunlight sunlit moonlight moonlit candlelight "
    "daylight glow glowing shadow shadows neon spotlight softbox chiaroscuro silhouette rays dark "
    "darkness bright fireworks lantern lanterns candle candles firelight lamplight"
)
TIMES: tuple[tuple[str, frozenset[str]], ...] = (
    ("night", word_set("night nighttime midnight moon stars starry nocturnal galaxy milky")),
    ("low_sun", word_set("sunset sunrise dawn dusk twilight evening golden-hour")),
    (
        "overcast",
        word_set(
            "rain rainy raining fog foggy mist misty snow snowy snowing storm stormy overcast "
            "cloudy downpour blizzard winter"
        ),
    ),
    ("none", word_set("underwater space planet spaceship cave cavern submarine deep-sea")),
    (
        "indoor",
        word_set(
            "room kitchen bathroom bedroom office library museum bar cafe restaurant indoors "
            "indoor "
            "interior studio hallway classroom garage toilet couch sofa bed sink oven "
            "refrigerator tv"
        ),
    ),
    ("day", word_set("day noon midday morning afternoon sunny sun summer")),
)

LIGHT: dict[str, Pair] = {
    "neutral": (
        ("soft", "gentle", "diffused", "clear", "delicate", "even", "angled", "calm", "quiet"),
        (
            "side light", "rim light", "ambient light", "light from the left", "light from above",
            "directional light", "reflected light", "light from the right", "frontal light",
        ),
    ),
    "day": (
        ("soft", "bright", "hazy", "clear", "crisp", "dappled", "open", "slanting", "filtered"),
        (
            "daylight", "sunlight", "natural light", "outdoor light", "sun from the side",
            "sky light", "open shade", "sunlight from behind",
        ),
    ),
    "night": (
        ("silver", "pale", "dim", "cool", "faint", "soft", "bluish", "low-key"),
        (
            "moonlight", "night light", "lamp glow", "lantern light", "light in deep shadow",
            "rim light in the dark", "night ambience", "pools of light",
        ),
    ),
    "low_sun": (
        ("low", "warm", "amber", "slanting", "glowing", "long", "mellow", "hazy"),
        (
            "horizon light", "twilight glow", "raking light", "backlight", "rim light",
            "light with long shadows", "side light", "afterglow",
        ),
    ),
    "overcast": (
        ("soft", "grey", "diffuse", "cool", "even", "misty", "flat", "veiled"),
        (
            "overcast light", "cloud-filtered light", "sky light", "ambient light",
            "light with faint shadows", "weather light", "pale light", "scattered light",
        ),
    ),
    "indoor": (
        ("soft", "warm", "quiet", "diffused", "shaded", "gentle", "mild", "low"),
        (
            "window light", "lamp light", "bounced light", "interior light", "room light",
            "light from a side window", "ceiling light", "light through curtains",
        ),
    ),
    "studio": (
        ("soft", "even", "broad", "angled", "gentle", "crisp", "graded", "clean"),
        (
            "softbox light", "studio light", "tabletop light", "side light", "top light",
            "key light", "light with soft shadows", "wraparound light",
        ),
    ),
}  # fmt: skip

COMPOSITION: Pair = (
    (
        "centered composition", "off-center composition", "rule-of-thirds framing",
        "diagonal composition", "balanced framing", "eye-level view", "three-quarter view",
        "low-angle view", "slightly raised viewpoint", "layered composition", "simple framing",
        "wide framing", "spacious composition", "asymmetrical framing",
    ),
    (
        "with a clear focal point", "with open space on one side", "with strong depth",
        "with a clean outline", "with leading lines", "with room to breathe",
        "with overlapping planes", "with calm edges", "with a steady horizon",
        "with clear separation", "with generous margins",
    ),
)  # fmt: skip

LENSES: dict[str, tuple[str, ...]] = {
    "person": ("50mm", "65mm", "75mm", "85mm", "105mm"),
    "animal": ("70mm", "85mm", "105mm", "135mm", "200mm"),
    "landscape": ("16mm", "20mm", "24mm", "28mm", "35mm"),
    "city": ("18mm", "21mm", "24mm", "28mm", "35mm"),
    "food": ("50mm", "60mm macro", "75mm", "90mm macro", "100mm macro"),
    "vehicle": ("28mm", "35mm", "50mm", "70mm", "85mm"),
    "object": ("40mm", "50mm", "60mm", "80mm", "90mm"),
    "abstract": ("35mm", "45mm", "50mm", "60mm", "80mm"),
}
APERTURES = ("f/1.8", "f/2", "f/2.8", "f/3.5", "f/4", "f/5.6", "f/8")
DEPTHS = ("shallow", "moderate", "deep", "gradual", "selective")
# {lens}, {aperture} and {depth} are filled in.
LENS_FORMS = (
    "{lens} lens at {aperture}",
    "{lens} optics with {depth} focus",
    "{depth} focus through {lens} glass",
    "{lens} view at {aperture}",
)

PHOTO_MEDIUMS: Pair = (
    ("film", "editorial", "documentary", "analog", "medium-format", "fine-art", "large-format"),
    ("photograph", "photography", "photo print", "color photograph"),
)
DRAWN_MEDIUMS: Pair = (
    ("painterly", "digital", "hand-painted", "graphic", "textured", "storybook"),
    ("illustration", "concept painting", "matte painting", "artwork", "render"),
)

PALETTES: dict[str, Pair] = {
    "free": (
        ("muted", "restrained", "earthy", "soft", "deep", "faded", "natural",
         "low-saturation", "subtle", "jewel-toned", "complementary"),
        ("tones", "color harmony", "hues", "color grading", "colors", "color transitions"),
    ),
    "colored": (
        ("balanced", "gentle", "restrained", "clean", "faithful", "even", "clear"),
        ("color contrast", "color separation", "color harmony", "color transitions",
        "color balance"),
    ),
    "monochrome": (
        ("deep", "long", "rich", "delicate", "crisp", "full"),
        ("tonal gradation", "grey tones", "tonal contrast", "shadow tones", "midtones"),
    ),
}  # fmt: skip

TEXTURES: dict[str, Pair] = {
    "person": (
        ("natural", "fine", "lifelike", "subtle", "visible", "true"),
        ("skin texture", "fabric texture", "hair strands", "cloth folds", "facial features"),
    ),
    "animal": (
        ("fine", "natural", "lifelike", "tactile", "crisp", "delicate"),
        ("surface texture", "body contours", "natural patterns", "anatomy", "surface sheen"),
    ),
    "landscape": (
        ("layered", "rugged", "fine", "atmospheric", "natural", "rich"),
        ("ground texture", "depth haze", "surface relief", "distance layers", "terrain texture"),
    ),
    "city": (
        ("crisp", "weathered", "tactile", "clean", "fine", "subtle"),
        ("facade texture", "architectural lines", "surface relief", "material joints",
         "wall texture"),
    ),
    "food": (
        ("fresh", "tactile", "moist", "crisp", "fine", "appetizing"),
        ("surface texture", "edges", "sheen", "crumb and grain", "glaze highlights"),
    ),
    "vehicle": (
        ("clean", "smooth", "crisp", "polished", "subtle", "fine"),
        ("body lines", "surface reflections", "material finish", "contours", "panel edges"),
    ),
    "object": (
        ("visible", "tactile", "fine", "subtle", "smooth", "honest"),
        ("material grain", "surface texture", "edge highlights", "material finish",
         "contact shadows"),
    ),
    "abstract": (
        ("layered", "fine", "smooth", "subtle", "tactile", "flowing"),
        ("texture", "gradients", "surface grain", "shapes", "contours"),
    ),
}  # fmt: skip
DRAWN_TEXTURES: Pair = (
    ("confident", "clean", "expressive", "careful", "consistent", "fluid"),
    ("linework", "shapes", "edges", "mark making", "silhouettes", "forms"),
)

PACES = (
    "slowly", "steadily", "smoothly", "gradually", "at an easy pace", "at walking pace",
    "unhurriedly", "in one even motion",
)  # fmt: skip
HEADINGS = (
    "from left to right", "from right to left", "toward the viewer", "away from the viewer",
    "slightly to the left", "slightly to the right", "across the frame",
    "along a slow diagonal", "in a shallow curve", "from the foreground into depth",
)  # fmt: skip
MOTIONS: dict[str, tuple[str, ...]] = {
    "person": ("moving", "turning", "shifting", "advancing"),
    "animal": ("moving", "turning", "shifting", "wandering"),
    "vehicle": ("moving", "gliding", "advancing", "travelling"),
    "abstract": ("drifting", "flowing", "shifting", "unfolding"),
}
SUBTLE_MOTIONS: Pair = (
    (
        "with faint reflections sliding", "with small shadows drifting", "with the air stirring",
        "with a slight shimmer moving", "with fine dust floating", "with soft highlights creeping",
        "with the light shifting", "with thin haze passing", "with a gentle breeze drifting",
        "with slow ripples of light going", "with the focus easing",
    ),
    HEADINGS,
)  # fmt: skip
STEADY_MOTIONS: Pair = (
    ("in", "with", "keeping", "all in"),
    (
        "one smooth continuous motion", "a steady rhythm", "fluid natural movement",
        "lifelike motion", "a clear and even tempo", "an easy natural flow",
        "unhurried continuous movement",
    ),
)  # fmt: skip
CAMERA: tuple[Pair, ...] = (
    (
        (
            "The camera pushes in", "The camera pulls back", "The camera glides left",
            "The camera glides right", "The camera rises", "The camera arcs around the scene",
            "The camera drifts forward", "The camera follows alongside",
        ),
        PACES,
    ),
    (
        ("A slow", "A steady", "A gentle", "A smooth", "A patient", "A gradual"),
        (
            "push-in draws the view closer", "pull-back opens up the space",
            "pan moves across the scene", "tilt travels upward", "arc circles to the left",
            "tracking shot keeps level with the subject", "crane move lifts the view",
            "sideways glide adds parallax",
        ),
    ),
    (
        (
            "Seen from a low viewpoint", "Seen at eye level", "Seen from a raised viewpoint",
            "Framed wide", "Framed at medium distance", "Viewed from the side",
            "Viewed from slightly above", "Starting close", "Starting far off", "Held low",
        ),
        (
            "with a slow push forward", "with a steady pan to the right",
            "with light handheld sway",
            "with a smooth glide to the left", "with a gradual move closer",
            "with a quiet pull-back", "with a slow upward tilt", "and easing sideways",
            "and rising little by little", "while panning at ease",
        ),
    ),
)  # fmt: skip
LIGHT_ACTIONS = (
    "shapes the forms", "falls across the scene", "stays constant throughout",
    "picks out the edges", "rests on every surface", "separates subject and surroundings",
    "gives the space depth", "moves gradually over the surfaces", "defines the volumes",
    "sets off the outlines", "keeps the colors true", "softens toward the background",
    "draws the eye to the center", "leaves the corners darker", "reveals the depth of the scene",
    "brings out the relief", "wraps around the forms", "holds steady from start to end",
)  # fmt: skip
FINISHES = (
    "The look combines", "The footage keeps", "Every frame holds",
    "The picture stays coherent with",
    "The shot is finished with", "The scene is rendered in", "The image is built on",
    "The grading favors", "The take shows", "Detail comes from", "The style rests on",
    "The frame is filled with", "Visual unity comes from", "The view is given",
)  # fmt: skip
