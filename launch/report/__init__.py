"""Reports on a run: progress, live view, metrics and the final summary."""
