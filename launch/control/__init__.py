"""Who is there, and what is done when somebody is not."""
