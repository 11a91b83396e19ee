"""The edgelaunch commands."""
