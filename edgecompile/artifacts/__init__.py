"""Writes what a compilation produces: shards, golden items, fallback plans and plan.yaml."""
