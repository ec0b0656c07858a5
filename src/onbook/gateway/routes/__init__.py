"""One file per edge function."""
