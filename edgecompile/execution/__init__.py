"""Executes shards: code shared by the compiler's measurements and the ranks."""
