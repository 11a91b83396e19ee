"""What every part of a rank uses: who it is, its limits, its failures. Imports no torch."""
