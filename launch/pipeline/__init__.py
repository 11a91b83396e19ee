"""Runs one stage: receives microbatches, computes its shard, sends the results."""
