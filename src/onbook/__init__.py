"""Onbook: versioned prompt templates, a gateway that composes and fits, workers that execute."""

from typing import Final

__version__: Final = "0.1.0"
