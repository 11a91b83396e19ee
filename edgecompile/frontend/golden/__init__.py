"""Runs the eager model on golden items, alone and in microbatches, and checks that it is pure."""
