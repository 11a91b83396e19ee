"""Handles results: files, labels, comparisons."""
