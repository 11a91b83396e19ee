"""Drawings of plans and runs as HTML and SVG: for reports, and for the live page. Imports no torch."""
