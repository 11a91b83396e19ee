"""A plan's or a run's pipeline over time, simulated, measured and drawn."""
