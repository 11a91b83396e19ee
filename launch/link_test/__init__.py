"""Measures bandwidth and latency between the ranks."""
