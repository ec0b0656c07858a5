"""Short names for a few models that suit this service: instruct, GGUF, Apache-2.0.

Sizes are those of the named quantisation, as their publishers' repositories list them; the digest
is what the hub states at the pull. Models that think before they answer are left out: what they
think would be taken for the prompt.
"""

from dataclasses import dataclass
from typing import Final

_MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model under a short name. ``size_bytes`` is about the size of the file."""

    name: str
    repository: str
    quantisation: str
    size_bytes: int
    licence: str
    good_for: str


_ENTRIES: Final = (
    CatalogueEntry(
        "smollm2-360m",
        "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF",
        "Q8_0",
        386 * _MB,
        "apache-2.0",
        "a little more variety than the packaged model, on any machine",
    ),
    CatalogueEntry(
        "smollm2-1.7b",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF",
        "Q4_K_M",
        1_060 * _MB,
        "apache-2.0",
        "English prompts on a machine with 4 GB of memory",
    ),
    CatalogueEntry(
        "qwen2.5-0.5b",
        "Qwen/Qwen2.5-0.5B-Instruct-GGUF",
        "Q4_K_M",
        491 * _MB,
        "apache-2.0",
        "the smallest that follows a template well; short prompts in seconds without a GPU",
    ),
    CatalogueEntry(
        "qwen2.5-1.5b",
        "Qwen/Qwen2.5-1.5B-Instruct-GGUF",
        "Q4_K_M",
        1_120 * _MB,
        "apache-2.0",
        "most prompts, in several languages, on a machine with 4 GB of memory",
    ),
    CatalogueEntry(
        "qwen3-4b",
        "unsloth/Qwen3-4B-Instruct-2507-GGUF",
        "Q4_K_M",
        2_500 * _MB,
        "apache-2.0",
        "the best prompts that a machine with 8 GB of memory can write",
    ),
    CatalogueEntry(
        "qwen3-30b-a3b",
        "unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF",
        "Q4_K_M",
        18_600 * _MB,
        "apache-2.0",
        "prompts and chat on a machine with 32 GB: of 30 billion weights a token uses 3",
    ),
)

CATALOGUE: Final = {entry.name: entry for entry in _ENTRIES}
