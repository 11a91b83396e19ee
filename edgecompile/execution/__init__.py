"""How a shard is executed: code shared by the compiler's measurements and the ranks."""
