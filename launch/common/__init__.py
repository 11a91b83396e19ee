"""What every part of a rank shares: who it is, its plan, its items, its failures. Imports no torch."""
