"""Captures the model as a torch.fx graph."""
