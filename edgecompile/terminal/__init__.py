"""Shared by all commands: options, progress, encodings and process handling. Imports no torch."""
