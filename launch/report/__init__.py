"""What a run says of itself, while it goes on and at its end."""
