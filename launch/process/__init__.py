"""The process a rank runs in: limits, memory, cores, signals and messages. Imports no torch."""
