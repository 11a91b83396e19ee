"""Shows, for each query sentence, the sentences whose embeddings are nearest, so that a reader can judge the result.

Usage: nearest.py SENTENCES.txt SENTENCES.npy QUERIES.txt QUERIES.npy
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

NUM_NEAREST = 3


def main(sentences_file: str, embeddings_file: str, queries_file: str, query_embeddings_file: str) -> None:
    """Embeddings have length 1, so that a dot product is the cosine of the angle between two of them."""
    sentences = Path(sentences_file).read_text(encoding="utf-8").splitlines()
    queries = Path(queries_file).read_text(encoding="utf-8").splitlines()
    similarity = np.load(query_embeddings_file) @ np.load(embeddings_file).T
    for query, row in zip(queries, similarity, strict=True):
        print(f'\nnearest to "{query}"')
        for index in np.argsort(-row)[:NUM_NEAREST]:
            print(f"  {row[index]:.2f}  {sentences[index]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
