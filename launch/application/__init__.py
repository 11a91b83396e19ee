"""A pipeline that runs inside an application: its rank, its callers, and what can be asked of it."""
