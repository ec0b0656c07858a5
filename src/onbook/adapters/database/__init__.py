"""The database: one schema, one migration chain, one store per file."""
