"""What becomes of results: files, labels, comparisons."""
