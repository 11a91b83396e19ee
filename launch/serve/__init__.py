"""`edgelaunch serve`: a plan as an HTTP service, put together from its routes."""
