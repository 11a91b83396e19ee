"""The model as an fx graph."""
