"""The live page of a service: what its cluster does now, beside what the plan predicts."""
