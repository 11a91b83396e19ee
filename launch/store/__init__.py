"""The store that ranks meet at, and who may join."""
