"""Everything that touches the outside. Adapters do not know each other."""
