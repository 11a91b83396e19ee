"""edgeprofile: measures the cost of a model's units on this device."""
