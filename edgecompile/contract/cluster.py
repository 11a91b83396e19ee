"""The plan's view of the cluster: ranks and their hosts, unused hosts, devices and network."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Device", "Host", "Limits", "Link", "Network", "Pair", "SpareHost"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    memory_bytes: int
    cpu_share: float | None = None
    """Cores that --emulate grants this host; null: all of them."""
    bandwidth_bytes_per_s: float | None = None
    """Of its network interface, each way; null: unknown."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine that runs one rank. Rank 0 is the data host."""

    rank: int
    name: str
    address: str
    port: int
    device: str
    execution: str
    dtype: str
    threads: int
    """Intra-op threads; 0: as many as the machine has cores."""
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class SpareHost:
    """A machine that this plan gives no work, and another plan might."""

    name: str
    address: str
    port: int
    device: str
    threads: int
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of hardware: the figures that times were predicted from, and what a new host of this kind would have."""

    name: str
    execution: str
    dtype: str
    peak_flops_per_s: float
    """Of matrix products as they run, the efficiency included."""
    memory_bytes_per_s: float
    launch_s: float
    memory_bytes: int
    runtime_bytes: int
    """What the runtime itself takes of a host's memory."""
    network_bytes_per_s: float
    threads: int


@dataclass(frozen=True, kw_only=True)
class Link:
    """From one rank to another."""

    source: int
    destination: int
    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """From one host to another, by name: figures that were given or measured."""

    source: str
    destination: str
    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, kw_only=True)
class Network:
    """How links share the medium: `host` (each interface has its rate), `pairwise`, or `shared` (one channel).

    A link runs at the lower rate of its two interfaces, in a shared medium at the channel's rate at most, unless
    `pairs` names it.
    """

    model: str
    bandwidth_bytes_per_s: float | None = None
    """The channel's rate where the medium is shared."""
    latency_s: float = 0.0
    """Of every link that `pairs` does not name."""
    pairs: tuple[Pair, ...] = ()
    """Only where the model is pairwise."""

    def figures(self, source: tuple[str, Limits], destination: tuple[str, Limits]) -> tuple[float, float] | None:
        """Bandwidth and latency from one host (its name and limits) to another; None: an interface is unknown."""
        for pair in self.pairs:
            if (pair.source, pair.destination) == (source[0], destination[0]):
                return pair.bandwidth_bytes_per_s, pair.latency_s
        rates = [source[1].bandwidth_bytes_per_s, destination[1].bandwidth_bytes_per_s]
        if self.bandwidth_bytes_per_s is not None:
            rates.append(self.bandwidth_bytes_per_s)
        known = [rate for rate in rates if rate is not None]
        return (min(known), self.latency_s) if len(known) == len(rates) else None
