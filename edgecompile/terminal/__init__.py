"""What every command has in common: options, progress, encodings, and how a process ends. Imports no torch."""
