"""The twelve templates: what a new database is seeded with, and the hardcoded fallback."""
