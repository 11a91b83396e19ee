"""What the eager model does with golden items, alone and among others."""
