"""The onbook command."""
