"""The agent of a board: takes plans from who knows the secret, and runs one rank at a time."""
