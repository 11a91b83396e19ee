"""What a command was asked to do: frozen, parsed and checked."""
