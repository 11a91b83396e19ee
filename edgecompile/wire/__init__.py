"""How tensors look while they travel between stages."""
