"""Shared by compiler, launcher and tools: plan.yaml, run.json, rules, units, errors. Imports no torch."""
