"""The Python API behind `edgecompile.compile`, `edgecompile.solve` and `edgecompile.simulate`."""
