"""Bandwidth and latency between the ranks, measured."""
