"""Judges what the precision of stages costs, and chooses it within a budget."""
