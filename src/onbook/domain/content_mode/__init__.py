"""Which content mode a text belongs to, and which one a request may be served in."""
