"""The edgelaunch commands for boards with agents, and for boards that are reached by ssh."""
