"""Measures a machine beside a model's units: its rates, messages, wire formats, items."""
