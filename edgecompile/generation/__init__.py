"""Makes the part of a plan that is of text generation."""
