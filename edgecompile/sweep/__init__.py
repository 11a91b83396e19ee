"""A multirun sweep: its points, its table, its picture."""
