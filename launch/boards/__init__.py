"""The caller's part of boards with agents: finds them, describes them, starts ranks on them."""
