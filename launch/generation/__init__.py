"""The data host's part of generating text: requests into slots, steps into messages, scores into tokens into text."""
