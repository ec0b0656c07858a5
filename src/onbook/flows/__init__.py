"""One file per thing the service does, straight-line."""
