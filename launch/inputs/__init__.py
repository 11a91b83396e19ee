"""Reads input: arrays, sentences, images, standard input."""
