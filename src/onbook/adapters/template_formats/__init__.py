"""Prompts of other tools as templates: one module per format, each a pure ``parse``."""
