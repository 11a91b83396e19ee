"""The scheduling problem (a chain of units and the hosts to run it on) and the schedule that answers it.

Cost model. Stage compute = decode at its first cut + its units + encode at its last cut. Transfer of a cut = wire
bytes over the link's bandwidth. Period = the largest of all stage and transfer times, of what the data host's
interface carries in each direction, and, with a shared medium, of all transfers together. Latency = all stages,
transfers and link latencies one after another. Memory of a stage = the runtime + its weights (shared ones once) + its
largest live activation + the buffers at both ends. The solver counts whole picoseconds, so that ties are ties.

Order among plans of equal period, latency and host count: from the last stage to the first, the host (its group of
hosts that are alike in kind, memory, links and pins, the groups in order of their first host), then the first unit,
the smaller first. Hosts alike are used in ascending order from the first stage on.

References: Pinar and Aykanat 2004 (chains-on-chains partitioning, probe-based search); Pinar, Tabak and Aykanat 2008
(unequal processors; polynomial for a fixed number of kinds); Benoit and Robert 2008 (pipeline period and latency);
PipeEdge, DSD 2022 (unequal kinds in counts).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgecompile.contract.closed_sets import Objective
from edgecompile.contract.errors import UserError

__all__ = [
    "Assignment",
    "Bottleneck",
    "Certificate",
    "HostLinks",
    "Infeasible",
    "Kind",
    "Links",
    "Objective",
    "PairwiseLinks",
    "Pin",
    "Problem",
    "SchedHost",
    "Schedule",
    "SharedMedium",
    "SharedWeight",
    "StageResult",
]

DEFAULT_STATE_BUDGET = 2_000_000


class Infeasible(UserError):
    """No plan meets the problem; the message says what does not fit, where, and by how much."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the units cost on one kind of device."""

    name: str
    """For messages."""
    unit_s: tuple[float, ...]
    """Seconds of each unit, a microbatch; one for each of the L units."""
    encode_s: tuple[float, ...] = ()
    """Seconds to encode what crosses each of the L + 1 cuts; () for none."""
    decode_s: tuple[float, ...] = ()
    """Seconds to decode it; () for none."""
    runtime_bytes: int = 0
    """Memory that the runtime itself takes on a host of this kind."""
    saved_bytes: tuple[int, ...] = ()
    """Of `Problem.weight_bytes`: what a host of this kind need not hold, its weights having fewer bits; () for none."""


@dataclass(frozen=True, kw_only=True)
class SchedHost:
    """One machine that may run a stage."""

    name: str
    """For messages."""
    kind: int
    """Index into `Problem.kinds`."""
    memory_bytes: int
    """All memory that a stage and its runtime may take."""
    bandwidth_bytes_per_s: float | None = None
    """Of its network interface; None for no limit, which `HostLinks` does not allow."""


@dataclass(frozen=True, kw_only=True)
class HostLinks:
    """Each pair of hosts is linked at the lower of their two bandwidths."""

    latency_s: float = 0.0
    """Of every link."""


@dataclass(frozen=True, kw_only=True)
class PairwiseLinks:
    """Each ordered pair of hosts has its own figures; the hosts' own bandwidths do not count."""

    bandwidth_bytes_per_s: tuple[tuple[float, ...], ...]
    """[from][to]; the diagonal is not read."""
    latency_s: tuple[tuple[float, ...], ...]
    """[from][to], seconds."""


@dataclass(frozen=True, kw_only=True)
class SharedMedium:
    """One half-duplex channel for all: its transfers add up."""

    bandwidth_bytes_per_s: float
    """Of the medium; a transfer runs at the least of this and its two hosts' bandwidths."""
    latency_s: float = 0.0
    """Of every link."""


Links = HostLinks | PairwiseLinks | SharedMedium


@dataclass(frozen=True, kw_only=True)
class SharedWeight:
    """A weight that several units use: a stage holds it once."""

    units: tuple[int, ...]
    """The units that use it, 0-based."""
    num_bytes: int
    """Its size; not part of `Problem.weight_bytes`."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Units that must run on one of the named hosts."""

    units: tuple[int, int]
    """First and last unit, 0-based, inclusive."""
    hosts: tuple[int, ...]
    """Indices into `Problem.hosts`."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A chain of L units and the hosts to run it on."""

    kinds: tuple[Kind, ...]
    """The kinds of device."""
    hosts: tuple[SchedHost, ...]
    """The machines."""
    links: Links
    """How they are connected."""
    cut_bytes: tuple[int, ...]
    """L + 1 wire sizes, a microbatch: [0] the inputs, [L] the results."""
    weight_bytes: tuple[int, ...]
    """Weights of each unit, without the shared ones, on the kinds that save nothing."""
    activation_bytes: tuple[int, ...]
    """Bytes that are live while each unit runs."""
    entry_bytes: tuple[int, ...]
    """L + 1 sizes: receive buffers of a stage that starts at each cut."""
    exit_bytes: tuple[int, ...]
    """L + 1 sizes: send buffers of a stage that ends at each cut."""
    shared_weights: tuple[SharedWeight, ...] = ()
    """Weights that several units use."""
    data_host: int | None = None
    """Where inputs come from and results go; None where both cost nothing."""
    objective: Objective = Objective.PERIOD
    """What to make least."""
    messages: int = 1
    """What the objective `latency` is of: so many messages that follow each other, such as a prompt's chunks. The last
    of them is through after latency + (messages - 1) * period."""
    latency_limit_s: float | None = None
    """No plan above this latency, whatever the objective."""
    pins: tuple[Pin, ...] = ()
    """Units bound to hosts."""
    together: tuple[tuple[int, int], ...] = ()
    """First and last unit of ranges without a cut inside."""
    excluded_hosts: tuple[int, ...] = ()
    """Hosts that run no stage."""
    host_order: tuple[int, ...] | None = None
    """Stages run on hosts in this order; some may stay unused, and hosts not listed run none."""
    max_hosts: int | None = None
    """At most so many stages."""
    period_limit_s: float | None = None
    """No plan above this period: microbatch / the least throughput asked for."""
    state_budget: int = DEFAULT_STATE_BUDGET
    """Host combinations that an exact search may look at; above it the search is bounded and says its gap."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One stage of a given plan."""

    first: int
    """First unit, 0-based."""
    last: int
    """Last unit, inclusive."""
    host: int
    """Index into `Problem.hosts`."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """One stage and what it costs."""

    first: int
    """First unit, 0-based."""
    last: int
    """Last unit, inclusive."""
    host: int
    """Index into `Problem.hosts`."""
    compute_s: float
    """Units with decode before and encode after."""
    receive_s: float
    """Transfer of what it takes in."""
    send_s: float
    """Transfer of what it gives out."""
    memory_bytes: int
    """What it needs on its host, the runtime's own share included."""


@dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """What sets the period."""

    kind: str
    """'stage', 'link', 'interface' or 'medium'."""
    stage: int | None
    """Which stage, for kind 'stage'."""
    hosts: tuple[int, ...]
    """The stage's host, the link's sender and receiver, or the interface's host; empty for the medium."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What is proved about a plan."""

    method: str
    """'exact'; 'exact, ties open' (proved best, ties not settled); 'bounded'; 'given' for a plan made elsewhere."""
    period_s: float
    """The plan's period."""
    lower_bound_s: float
    """No plan within the constraints has less; of the latency of all messages, where that is the objective."""
    gap: float
    """1 - lower bound / the plan's own figure: 0.0 means proved best."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A plan's stages in order, and what it costs."""

    stages: tuple[StageResult, ...]
    """At least one; together they cover every unit."""
    period_s: float
    """Time between two results in steady state."""
    latency_s: float
    """One microbatch end to end."""
    bottleneck: Bottleneck
    """What sets the period."""
    certificate: Certificate
    """What is proved."""

    def through_s(self, messages: int) -> float:
        """Until the last of so many messages that follow each other is through."""
        return self.latency_s + (messages - 1) * self.period_s
