"""All ranks on this machine."""
