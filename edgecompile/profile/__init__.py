"""The cost of each unit on each kind of device, from data sheets or measurements."""
