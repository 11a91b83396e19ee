"""Timelines of a pipeline: simulated, measured and drawn."""
