"""The graph as a chain of units and boundaries, which stages are cut from."""
