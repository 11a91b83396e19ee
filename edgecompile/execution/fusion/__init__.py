"""Products of codes, and what stands between them, by native code: in a language model one call between attentions."""
