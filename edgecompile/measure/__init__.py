"""edgeprofile: measures what the units of a model take on this device."""
