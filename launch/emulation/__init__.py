"""Emulates the plan's cluster on this machine: network namespaces, control groups, cores."""
