"""Estimates a rank's memory beside weights and runtime: activations and message buffers."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Buffers", "data_host_bytes", "heap_bytes", "kept_inputs_bytes", "most_ends_bytes"]

HOLES = 0.5
"""Beside so many blocks that are alive, a heap has half as many holes.

Knuth, The Art of Computer Programming 1, 2.5: the fifty-percent rule. Operators of unlike sizes take and free blocks,
and no allocator moves any, so that a heap never shrinks to what is alive.
"""


class Buffers(Protocol):
    """How many buffers a rank has at each boundary."""

    @property
    def num_buffers_in(self) -> int: ...

    @property
    def num_buffers_out(self) -> int: ...


def heap_bytes(live_bytes: int) -> int:
    """What a heap takes that holds activations of so many bytes at their peak."""
    return live_bytes + int(live_bytes * HOLES)


def data_host_bytes(runtime: Buffers, input_bytes: int, output_bytes: int, *, first: bool, last: bool) -> int:
    """The buffers of the pipeline's two ends on the data host, beside those of the stage that it may run.

    Args:
        input_bytes: of one microbatch; `output_bytes` likewise.
        first: the data host runs the first stage itself, whose buffers are then filled in place, with one more of them.
        last: it runs the last one, whose results are then taken from where they lie.
    """
    feeding = input_bytes * (1 if first else runtime.num_buffers_out)
    taking = runtime.num_buffers_in + 1 - runtime.num_buffers_out if last else runtime.num_buffers_in
    return feeding + output_bytes * taking


def kept_inputs_bytes(runtime: Buffers, input_bytes: int, num_stages: int) -> int:
    """What the data host keeps until results are there, to send it again after the loss of a rank.

    The inputs of as many microbatches as the pipeline has buffers: those at both ends of each boundary.

    Args:
        input_bytes: of one microbatch.
    """
    return (num_stages + 1) * (runtime.num_buffers_in + runtime.num_buffers_out) * input_bytes


def most_ends_bytes(runtime: Buffers, input_bytes: int, output_bytes: int, num_hosts: int) -> int:
    """What the data host needs at most beside a stage of its own, before it is known which one that is."""
    buffers = data_host_bytes(runtime, input_bytes, output_bytes, first=False, last=False)
    return buffers + kept_inputs_bytes(runtime, input_bytes, num_hosts)
