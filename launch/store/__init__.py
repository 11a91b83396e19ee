"""The store where the ranks meet, and the checks on who may join."""
