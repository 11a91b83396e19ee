"""Products of weights of four bits, and what stands around them, by native code: between attentions one call."""
