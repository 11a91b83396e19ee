"""What users feed: arrays, sentences, images, standard input."""
