"""The costs stored in a plan: all that is needed to plan again without the model and without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgecompile.contract.yaml_decode import OMITTED

__all__ = ["BoundaryEntry", "Pinned", "Scheduling", "SharedEntry", "UnitEntry", "Workload"]


@dataclass(frozen=True, kw_only=True)
class BoundaryEntry:
    """What is alive between two units, and what it costs to send; cuts where the same is alive share an entry."""

    boundary: int
    wire_bytes: dict[str, int]
    """Bytes of one microbatch in each wire format; inputs and results travel as they are, `fp32`. Where sizes vary, on
    average over the workload."""
    encode_s: dict[str, dict[str, float]]
    """For each device kind, the sending stage's seconds in each wire format."""
    decode_s: dict[str, dict[str, float]]
    """The receiving stage's."""
    largest_bytes: dict[str, int] = field(default_factory=dict, metadata={OMITTED: True})
    """As wire_bytes, of the largest message, which buffers must hold; empty: all are alike."""

    @property
    def buffer_bytes(self) -> dict[str, int]:
        """Of a message's buffer in each wire format."""
        return self.largest_bytes or self.wire_bytes


@dataclass(frozen=True, kw_only=True)
class UnitEntry:
    """One unit's costs."""

    unit: int
    op: str
    boundary: int
    """What is alive before it: a number of `boundaries`, whose last entry holds the results."""
    cuttable: bool = True
    """Whether a stage may begin with it."""
    flops: int
    weight_bytes: int
    """Of the weights that no other unit reads; the others are in `shared_weights`."""
    saved_bytes: dict[str, int] = field(default_factory=dict, metadata={OMITTED: True})
    """Of these, on the device kinds whose precision needs fewer."""
    state_bytes: int = field(default=0, metadata={OMITTED: True})
    """Of keys and values that it keeps, all slots together."""
    activation_bytes: int
    """What a rank's heap holds of activations while it runs."""
    time_s: dict[str, float]
    """Predicted seconds on each device kind."""


@dataclass(frozen=True, kw_only=True)
class SharedEntry:
    """A weight that several units read; a stage holds it once."""

    units: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Pinned:
    units: tuple[int, int]
    """First and last unit, both included."""
    hosts: tuple[str, ...]
    """One of them must run these units."""


@dataclass(frozen=True, kw_only=True)
class Scheduling:
    """What was asked for beside the objective."""

    method: str
    wire: str
    """The format of float32 tensors at cuts."""
    per_cut: tuple[str, ...] = ()
    """A format for each cut of this plan, in order; empty: `wire` at all of them."""
    latency_limit_s: float | None = None
    period_limit_s: float | None = None
    max_hosts: int | None = None
    exclude: tuple[str, ...] = ()
    """Hosts that run no stage."""
    host_order: tuple[str, ...] | None = None
    """Stages run on hosts in this order, and on no others."""
    pins: tuple[Pinned, ...] = ()
    together: tuple[tuple[int, int], ...] = ()
    """First and last unit of ranges that stay in one stage."""
    state_budget: int
    feed_s: float = field(default=0.0, metadata={OMITTED: True})
    """Seconds that the data host's cores take for the items of a message, beside the stage that it runs: reading and
    tokenising them, and handing on their results. 0: not known, or done by cores that are idle otherwise."""
    messages: int = field(default=1, metadata={OMITTED: True})
    """Where the objective is the latency, it is of so many messages that follow each other: the chunks of a prompt."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The mix of messages that times, bytes and throughput are of, where messages vary in size.

    Memory is of the largest.
    """

    source: str
    """In words: a file, or the model option's own lengths."""
    items: float
    """Of a message, on average."""
    positions: float
    """That are computed for a message, on average: items times their largest extent."""
    useful: float
    """The share of them that is not padding."""
