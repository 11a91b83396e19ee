"""Turns a model into a chain of units, with golden items to check it by."""
