"""In-memory adapters that ship with the product: for tests and for trying things out."""
