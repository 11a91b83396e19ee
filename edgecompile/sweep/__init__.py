"""Hydra multirun sweeps: their points, table and plot."""
