"""Which repository is meant, and which of its files: names, quantisations, and what is refused."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from onbook.adapters.model_hub.catalogue import CATALOGUE
from onbook.adapters.model_hub.errors import PullFailed

SUFFIX: Final = ".gguf"
# More than any model that one machine runs; a statement beyond it is a mistake or a trick.
MAX_MODEL_BYTES: Final = 2 * 1024**4
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,199}")
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+() -]{0,179}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_QUANTISATION: Final = re.compile(
    r"(?:^|[-._])((?:I?Q[1-8]|TQ[12])(?:_[A-Z0-9]{1,3}){0,3}|BF16|F16|F32|MXFP4)(?=[-._]|$)",
    re.IGNORECASE,
)
_PART: Final = re.compile(r"-\d{5}-of-\d{5}$")
# What a person who names none wants: small, with little loss.
_PREFERRED: Final = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q4_0", "Q4_1", "Q6_K", "Q8_0")
_NOT_A_MODEL: Final = ("mmproj", "imatrix")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. ``sha256`` is None where the hub states none."""

    path: str
    size_bytes: int | None
    sha256: str | None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True, slots=True)
class Reference:
    """What to pull: a repository, and the quantisation if one was named."""

    repository: str
    quantisation: str | None
    alias: str | None = None


def reference(text: str) -> Reference:
    """Return what ``text`` names: ``owner/repository[:quantisation]`` or a short name.

    Raises:
        PullFailed: it is neither.
    """
    name, colon, quantisation = text.partition(":")
    entry = CATALOGUE.get(name.lower())
    if entry is not None:
        return Reference(entry.repository, quantisation or entry.quantisation, text.lower())
    if _REPOSITORY.fullmatch(name) and ".." not in name and bool(quantisation) == bool(colon):
        return Reference(name, quantisation or None)
    raise PullFailed(
        "A model is named by its repository, as in Qwen/Qwen2.5-0.5B-Instruct-GGUF:q4_k_m, or by "
        f"a short name: {', '.join(CATALOGUE)}."
    )


def checked_revision(text: str) -> str:
    """Return ``text`` if it can be the name of a branch, a tag or a commit.

    Raises:
        PullFailed: it cannot.
    """
    if not _REVISION.fullmatch(text) or ".." in text:
        raise PullFailed("The revision is not the name of a branch, a tag or a commit.")
    return text


def checked_sha256(text: str) -> str:
    """Return ``text`` in lower case if it is a SHA-256 in hexadecimal.

    Raises:
        PullFailed: it is not.
    """
    if not _SHA256.fullmatch(text.lower()):
        raise PullFailed("A SHA-256 has 64 hexadecimal digits.")
    return text.lower()


def quantisation_of(name: str) -> str | None:
    """Return the quantisation that a file's name states, in capitals, or None."""
    found = _QUANTISATION.findall(PurePosixPath(name).name.removesuffix(SUFFIX))
    return str(found[-1]).upper() if found else None


def checked_name(name: str) -> str:
    """Return ``name`` if a file may be installed under it.

    Raises:
        PullFailed: it could leave the directory, hide, or is no GGUF file's.
    """
    if not _FILE.fullmatch(name) or not name.lower().endswith(SUFFIX):
        raise PullFailed(
            "The file's name cannot be used here: it must end in .gguf, begin with a letter or a "
            "digit, and have no directories in it."
        )
    return name


def chosen_file(
    files: Sequence[HubFile], repository: str, *, path: str | None, quantisation: str | None
) -> HubFile:
    """Return the one file to pull: ``path``, or the GGUF of the quantisation.

    Without either, the only GGUF of the repository, or the preferred quantisation.

    Raises:
        PullFailed: there is none, there are several, or it is one of a model's parts.
    """
    models = [file for file in files if _is_model(file)]
    if path is not None:
        found = [file for file in files if file.path == path]
        if not found:
            raise PullFailed(f"{repository} has no such file; it has {_names(models)}.")
    elif quantisation is not None:
        found = [file for file in models if quantisation_of(file.path) == quantisation.upper()]
        if not found:
            raise PullFailed(
                f"{repository} has no file of that quantisation; it has {_quantisations(models)}."
            )
    else:
        found = _preferred(models)
        if not found:
            raise PullFailed(f"{repository} has no GGUF file; name a repository that has.")
    if any(_PART.search(file.name.removesuffix(SUFFIX)) for file in found):
        raise PullFailed(
            "This model is split into several files, which cannot be pulled; choose another "
            f"quantisation of {repository}, or join the parts and set ONBOOK_MODEL_PATH."
        )
    if len(found) > 1:
        raise PullFailed(f"Several files match; name one with --file: {_names(found)}.")
    return _checked(found[0])


def _is_model(file: HubFile) -> bool:
    name = file.name.lower()
    return name.endswith(SUFFIX) and not any(part in name for part in _NOT_A_MODEL)


def _preferred(models: Sequence[HubFile]) -> list[HubFile]:
    if len(models) == 1:
        return list(models)
    for wanted in _PREFERRED:
        found = [file for file in models if quantisation_of(file.path) == wanted]
        if found and not any(_PART.search(file.name.removesuffix(SUFFIX)) for file in found):
            return found
    return list(models)


def _checked(file: HubFile) -> HubFile:
    # What a hub says is somebody else's text until it is checked.
    if not file.path.isprintable() or any(part in ("", ".", "..") for part in file.path.split("/")):
        raise PullFailed(
            "The hub states a file name that would leave its directory, or cannot be shown."
        )
    checked_name(file.name)
    if file.size_bytes is None or not 0 < file.size_bytes <= MAX_MODEL_BYTES:
        raise PullFailed("The hub states no size for the file, or one that cannot be.")
    if file.sha256 is not None and not _SHA256.fullmatch(file.sha256):
        raise PullFailed("The hub states a SHA-256 that is none.")
    return file


def _names(files: Sequence[HubFile]) -> str:
    shown = [file.path if file.path.isprintable() else "?" for file in files]
    return _listed(shown) or "no GGUF file"


def _quantisations(files: Sequence[HubFile]) -> str:
    return _listed(sorted({quantisation_of(file.path) or "?" for file in files})) or "no GGUF file"


def _listed(names: Sequence[str], limit: int = 20) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
