"""The graph as a chain of units and boundaries, from which stages are cut."""
