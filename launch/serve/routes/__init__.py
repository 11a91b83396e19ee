"""The routes of the HTTP service: predictions, and those of the OpenAI API."""
