"""The plan (plan.yaml) as frozen dataclasses: the only input that ranks need. Imports no torch.

All times are seconds, sizes bytes, rates bytes a second. Paths are relative to the plan's folder and stay below it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgecompile.contract.cluster import Device, Host, Link, Network, SpareHost
from edgecompile.contract.costs import BoundaryEntry, Scheduling, SharedEntry, UnitEntry, Workload
from edgecompile.contract.dtypes import DTYPE_BYTES
from edgecompile.contract.generation import Generation
from edgecompile.contract.yaml_decode import OMITTED

__all__ = [
    "SUFFIX",
    "WEIGHTS_FOLDER",
    "Accuracy",
    "Certificate",
    "Contingency",
    "DataSpec",
    "Dim",
    "Golden",
    "ImageSpec",
    "ModelInfo",
    "Plan",
    "Predicted",
    "Provenance",
    "Runtime",
    "Stage",
    "StagePrediction",
    "TensorSpec",
    "TextSpec",
    "Workload",
    "product",
    "weights_path",
]


@dataclass(frozen=True, kw_only=True)
class Dim:
    """A dimension whose extent varies from message to message: `batch`, or one that the model option names."""

    min: int
    max: int


WEIGHTS_FOLDER, SUFFIX = "weights", ".safetensors"


def weights_path(sha256: str) -> str:
    """Where a weights file is, below the plan's folder."""
    return f"{WEIGHTS_FOLDER}/{sha256}{SUFFIX}"


def product(dims: str, sizes: Mapping[str, int]) -> int:
    """The extent of an axis, such as `length`, `batch*length`, `2*length` or `length+1`, at these sizes."""
    terms = (term.split("*") for term in dims.split("+"))
    return sum(math.prod(int(part) if part.isdigit() else sizes[part] for part in term) for term in terms)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One tensor of a boundary, as it travels: its batch dimension is the first and counts the microbatch."""

    name: str
    shape: tuple[int, ...]
    """At the largest sizes."""
    dtype: str
    wire: str = "raw"
    """`raw`: the tensor itself. Otherwise the wire format that this tensor is a part of, such as `int8`."""
    dims: tuple[str | None, ...] = field(default=(), metadata={OMITTED: True})
    """For each axis the dimension of ModelInfo.dims that it is, or what follows from several, such as `batch*length` or
    `length+1`; null where its extent is fixed. Empty: all are."""

    def shape_at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in a message of these sizes, by the name of the dimension."""
        if not self.dims:
            return self.shape
        pairs = zip(self.shape, self.dims, strict=True)
        return tuple(extent if dim is None else product(dim, sizes) for extent, dim in pairs)

    @property
    def num_bytes(self) -> int:
        size = DTYPE_BYTES[self.dtype]
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    name: str
    microbatch: int
    """Items of a message; at most, where the batch is one of `dims`."""
    num_parameters: int
    weights: str
    """Where the weights came from, in words: a file name with its sha256, or `random, seed 0`."""
    capture: str
    dims: dict[str, Dim] = field(default_factory=dict, metadata={OMITTED: True})
    """The dimensions that vary, by name; where there are any, `batch` is one of them. Empty: every message has the
    shapes that the plan names."""
    padding: dict[str, float] = field(default_factory=dict, metadata={OMITTED: True})
    """For each input what fills it beyond an item's own extent, where items that differ in it may share a message: it
    was checked that this changes no result. Empty: only items of equal extents share one."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the plan was made with: the same for the same config and versions, wherever that is."""

    edgecompile: str
    torch: str
    python: str
    overrides: tuple[str, ...]
    """Of edgecompile's config: the options and values that are not its own, found from the config."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    throughput_items_per_s: float
    period_s: float
    latency_s: float
    bottleneck: str
    """In words: `stage 1 on orin-1`, `link orin-1 -> nano-1`."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    method: str
    period_s: float
    lower_bound_s: float
    gap: float
    """(period - lower bound) / period: 0 when no better plan exists."""


@dataclass(frozen=True, kw_only=True)
class StagePrediction:
    compute_s: float
    send_s: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    stage: int
    rank: int
    units: tuple[int, int]
    """First and last unit, 0-based, both included."""
    first_op: str
    last_op: str
    shard: str
    """Empty, as sha256, where `artifact` is none."""
    sha256: str
    artifact: str = "torchscript"
    precision: str = field(default="fp32", metadata={OMITTED: True})
    """Of its products with weights: one of Precision; all else is computed in float32."""
    weights: tuple[str, ...] = field(default=(), metadata={OMITTED: True})
    """The sha256 of each weights file that the shard needs (weights_path); empty: it holds its weights itself."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    predicted: StagePrediction

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """All that its rank needs: path below the plan's folder and sha256, the shard last."""
        if not self.shard:
            return ()
        return (*((weights_path(sha256), sha256) for sha256 in self.weights), (self.shard, self.sha256))


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    size: tuple[int, int]
    """Height and width that the model takes."""
    resize: int
    """Shorter side before the centre crop."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    tokenizer: str | None
    """tokenizer.json beside the plan; null: only token ids can be fed."""
    sha256: str | None
    max_length: int
    ids: str
    """The name of the input that takes token ids; mask and types may be null."""
    mask: str | None = None
    types: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What the model's inputs and results mean to a person."""

    kind: str
    """`tensor`, `image` or `text`."""
    image: ImageSpec | None = None
    text: TextSpec | None = None
    result: str = "array"
    """`array`, or `labels`: the output named below holds class scores."""
    scores: str | None = None
    """The output that holds class scores (B, classes)."""
    labels: tuple[str, ...] = ()
    """Class names; where empty, labels are the class numbers."""
    top_k: int = 5


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Inputs and eager outputs to compare with, in one .safetensors file: keys `input.NAME` and `output.NAME`.

    Empty, of a plan without shards.
    """

    file: str
    sha256: str
    num_items: int
    tolerance: dict[str, float]
    """For each output, the largest absolute difference to `output.NAME` that a run may show. With lossy wire formats it
    holds what they cost, and whole numbers and bools are those of the shards, not the model's."""
    error: dict[str, float] = field(default_factory=dict)
    """For each output, the shards' largest error to the model in float64, relative to its largest value."""
    eager_error: dict[str, float] = field(default_factory=dict)
    """The same of the eager model in its own precision."""
    reference: str | None = None
    """The unsplit model as TorchScript, traced before any pass; null: compiled without reference=true."""
    reference_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class ItemsAccuracy:
    """What the precision of the stages costs on items of the user's own (`accuracy.items`)."""

    items: str
    """In words, such as `241 items of texts.txt`."""
    error: dict[str, float]
    """As Accuracy.error, of the model in its own precision."""
    agreement: dict[str, float] = field(default_factory=dict, metadata={OMITTED: True})
    """As Accuracy.agreement; of other rows of floats than scores: whether the nearest other item stays the same."""
    right: float | None = None
    """The share of items that get the right label; null: they have none."""
    model_right: float | None = None
    """The same of the model in its own precision."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What the precision of the stages costs on the golden items."""

    budget: float
    error: dict[str, float]
    """By output: the squares of its errors over the squares of the model's in float64."""
    agreement: dict[str, float] = field(default_factory=dict, metadata={OMITTED: True})
    """By output: of one row of floats an item, the share of items whose largest value stays where it is; of whole
    numbers and bools, the share of values that stay the same."""
    items: ItemsAccuracy | None = field(default=None, metadata={OMITTED: True})
    """On the user's own items, which then are held to the budget in place of the golden ones."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    num_buffers_in: int
    num_buffers_out: int
    timeout_s: float
    """For joining: how long ranks wait for each other."""
    detect_s: float = 10.0
    """A rank that is silent for so long is lost, and a link cut; on slow links it takes longer."""
    rejoin_s: float = 60.0
    """How long the others wait for a lost rank or a cut link that they need; 0: not at all."""
    prepack: str = "auto"
    """Whether a rank rearranges weights for oneDNN's products: `auto`, `always` or `never`."""
    imports: tuple[str, ...] = ()
    """Modules that register operators of the model's own; a rank imports them before it loads its shard."""
    window: int = field(default=4, metadata={OMITTED: True})
    """Where messages vary in size: from so many microbatches' worth of items those of a message are chosen."""
    max_wait_s: float = field(default=0.005, metadata={OMITTED: True})
    """And so long an item waits at most for others to share its message."""
    batch_tokens: int | None = field(default=None, metadata={OMITTED: True})
    """And so many positions, items times their largest extents, a message has at most; None: no limit."""


@dataclass(frozen=True, kw_only=True)
class Contingency:
    """What is done without one host: the other ranks' stages, and what these are predicted to do."""

    lost: str
    """The host's name."""
    predicted: Predicted
    certificate: Certificate
    stages: tuple[Stage, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    version: int
    model: ModelInfo
    workload: Workload | None = field(default=None, metadata={OMITTED: True})
    objective: str
    predicted: Predicted
    certificate: Certificate
    hosts: tuple[Host, ...]
    """Those that run a rank, in the order of ranks."""
    unused_hosts: tuple[SpareHost, ...] = ()
    cluster: tuple[str, ...]
    """All hosts by name in the config's order, the data host first; of plans that are equal, the order decides."""
    devices: tuple[Device, ...]
    network: Network
    runtime: Runtime
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    data: DataSpec
    golden: Golden
    generation: Generation | None = field(default=None, metadata={OMITTED: True})
    """Of a language model that generates text."""
    accuracy: Accuracy | None = field(default=None, metadata={OMITTED: True})
    """None: every stage is in float32."""
    stages: tuple[Stage, ...]
    scheduling: Scheduling
    boundaries: tuple[BoundaryEntry, ...]
    shared_weights: tuple[SharedEntry, ...] = ()
    units: tuple[UnitEntry, ...]
    notes: tuple[str, ...] = field(default=())
    contingencies: tuple[Contingency, ...] = ()
    provenance: Provenance | None = None
    """None: of an edgecompile that did not say."""

    @property
    def has_shards(self) -> bool:
        """Whether ranks can run it; otherwise it was compiled with artifact=none."""
        return all(stage.shard for stage in self.stages)

    @property
    def items_per_message(self) -> float:
        """On average over the workload."""
        return self.model.microbatch if self.workload is None else self.workload.items

    def sent_bytes(self, stage: Stage) -> int:
        """Of a message that the stage sends, on average over the workload."""
        if self.workload is None:
            return sum(spec.num_bytes for spec in stage.outputs)
        following = stage.units[1] + 1
        number = self.units[following].boundary if following < len(self.units) else -1
        encoded = [spec.wire for spec in stage.outputs if spec.wire != "raw"]
        return self.boundaries[number].wire_bytes[encoded[0] if encoded else "fp32"]

    @property
    def all_hosts(self) -> tuple[Host | SpareHost, ...]:
        """The hosts with and without a rank, in the order of `cluster`."""
        by_name: dict[str, Host | SpareHost] = {host.name: host for host in self.hosts}
        by_name.update((host.name, host) for host in self.unused_hosts)
        return tuple(by_name[name] for name in self.cluster)

    @property
    def rounding(self) -> str:
        """What rounds results, in words, after the loss of a host included; empty: nothing does."""
        stages = [*self.stages, *(stage for item in self.contingencies for stage in item.stages)]
        precisions = sorted({stage.precision for stage in stages} - {"fp32"})
        found = [f"products are in {' and '.join(precisions)}"] if precisions else []
        if any(spec.wire != "raw" for stage in stages for spec in stage.outputs):
            found.append("the wire formats are lossy")
        if self.generation is not None and self.generation.in_bf16:
            found.append("keys and values are kept in bf16")
        return ", ".join(found)

    @property
    def lossy(self) -> bool:
        """Whether any tensor is rounded, as it travels, as it is kept, or in a stage's products."""
        return bool(self.rounding)

    @property
    def way(self) -> tuple[int, ...]:
        """The ranks that the data passes: the data host, each stage's, the data host. Boundary i is behind the i-th."""
        return (0, *(stage.rank for stage in self.stages), 0)

    def stage_of_rank(self, rank: int) -> Stage | None:
        """The stage that this rank runs; None for a data host without one."""
        return next((stage for stage in self.stages if stage.rank == rank), None)

    def link(self, source: int, destination: int) -> Link | None:
        """From rank to rank; None where an interface's rate is unknown."""
        first, second = self.hosts[source], self.hosts[destination]
        figures = self.network.figures((first.name, first.limits), (second.name, second.limits))
        if figures is None:
            return None
        rate, latency_s = figures
        return Link(source=source, destination=destination, bandwidth_bytes_per_s=rate, latency_s=latency_s)

    @property
    def links(self) -> tuple[Link, ...]:
        """All ordered pairs of ranks whose rate is known."""
        ranks = range(len(self.hosts))
        pairs = [(first, second) for first in ranks for second in ranks if first != second]
        return tuple(link for pair in pairs if (link := self.link(*pair)) is not None)
