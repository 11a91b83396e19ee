"""Watching a run from outside of it: rank 0 shows its state to whoever may see it, on this machine and on others."""
