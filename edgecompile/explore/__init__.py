"""edgeplan: reads plans. Imports no torch."""
