"""What the flows need from outside, as Protocols."""
