"""Membership and recovery: which ranks are present, and what happens when one is lost."""
