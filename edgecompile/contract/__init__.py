"""What compiler, launcher and tools share: plan.yaml, run.json, rules, units, errors. Imports no torch."""
