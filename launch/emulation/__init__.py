"""The plan's cluster on this machine: namespaces, control groups, cores."""
