"""Marks fields that plan.yaml holds only where they say something."""

from __future__ import annotations

__all__ = ["OMITTED"]

OMITTED = "omitted if empty"
"""In a field's metadata."""
