"""Layout of messages on the wire: what ranks send and edgeprofile measures. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

__all__ = [
    "ALIGN_BYTES",
    "FIRST_PIECE_BYTES",
    "HEADER_BYTES",
    "NUM_BUFFERS_IN",
    "NUM_BUFFERS_OUT",
    "PIECE_BYTES",
    "piece_sizes",
    "pieces",
]

HEADER_BYTES = 64
ALIGN_BYTES = 64
FIRST_PIECE_BYTES = 64 << 10
"""The end of the stream is one first piece alone, so it is kept small."""
PIECE_BYTES = 1 << 20
"""Larger gloo operations hang when the peer dies while they are under way."""
NUM_BUFFERS_IN, NUM_BUFFERS_OUT = 3, 2
"""Messages that a link holds at its receiver and at its sender, by default."""


def pieces(num_bytes: int) -> list[tuple[int, int]]:
    """Begin and end of each piece of a message, a gloo operation each."""
    first = min(num_bytes, FIRST_PIECE_BYTES)
    return list(itertools.pairwise([0, *range(first, num_bytes, PIECE_BYTES), num_bytes]))


def piece_sizes(num_bytes: int, offset: int = 0) -> Iterator[int]:
    """Of other bytes than a message's, such as a file's, from `offset` on: equal pieces, and what is left."""
    for begin in range(offset, num_bytes, PIECE_BYTES):
        yield min(PIECE_BYTES, num_bytes - begin)
