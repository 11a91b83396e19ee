"""Checks of what a rank needs, before a run."""
