"""Wire formats: how tensors are encoded between stages."""
