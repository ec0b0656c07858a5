import tomllib
from hashlib import sha256

import pytest

from onbook.adapters.files.packaged import packaged_lexicon_bytes
from onbook.domain.content_mode.lexicon import parse_lexicon
from onbook.domain.content_mode.lexicon_detector import LexiconDetector


@pytest.fixture(scope="session")
def detector() -> LexiconDetector:
    data = packaged_lexicon_bytes()
    lexicon = parse_lexicon(tomllib.loads(data.decode()), sha256=sha256(data).hexdigest())
    return LexiconDetector(lexicon)
