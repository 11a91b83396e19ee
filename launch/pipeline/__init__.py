"""One stage at work: microbatches in, through its shard, and out."""
