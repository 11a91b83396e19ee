"""profile=auto: measures a plan's own machine while it is compiled."""
