"""Files of ours and of users: written whole or not at all, and nobody else's overwritten."""
