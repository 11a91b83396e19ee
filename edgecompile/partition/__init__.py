"""Assigns units to stages and stages to hosts."""
