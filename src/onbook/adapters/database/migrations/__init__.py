"""The Alembic chain."""
