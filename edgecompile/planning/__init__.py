"""The scheduling problem and its solver. Imports no torch."""
