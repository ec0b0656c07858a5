"""Turning a model's raw text into a prompt that the generator takes whole."""
