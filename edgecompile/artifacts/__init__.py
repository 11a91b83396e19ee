"""What a compilation writes: shards, golden items, fallbacks and the plan."""
