"""The requests of the edgelaunch commands: frozen, parsed and checked. Imports no torch."""
