"""What users write, checked, and as frozen objects in SI units. Imports no torch."""
