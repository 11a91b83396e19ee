"""What compiler, launcher and tools agree on: plan.yaml and run.json, rules, units, errors. Imports no torch."""
