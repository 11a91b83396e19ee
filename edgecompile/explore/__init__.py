"""The edgeplan subcommands: reading, explaining and simulating plans. Imports no torch."""
