"""This process: its limits, memory, cores, signals, and what it says. Imports no torch."""
