"""Shared by all parts of a rank: identity, plan, items and failures. Imports no torch."""
