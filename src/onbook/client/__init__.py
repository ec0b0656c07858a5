"""The Python client; it speaks the wire only."""
