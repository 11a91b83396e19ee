"""How a shard is run, which the compiler measures and a rank does: one code for both."""
