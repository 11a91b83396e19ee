"""Runs all ranks on this machine."""
