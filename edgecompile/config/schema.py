"""The structured config: what users write. Mutable, as OmegaConf needs it; request.py turns it into frozen objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgecompile.config.methods import CaptureMethod, ProfileMethod, ScheduleMethod
from edgecompile.execution.message_layout import NUM_BUFFERS_IN, NUM_BUFFERS_OUT

__all__ = ["Conf"]


@dataclass
class InputConf:
    """One input of the model, without the batch dimension."""

    shape: list[Any] = field(default_factory=list)
    """Extents, or names of the model's dims."""
    dtype: str = "float32"
    fill: str | None = None
    """What test items hold: normal, uniform, ids, mask, zeros, ones; null: by dtype and name."""
    high: int | None = None
    """For ids: one more than the largest; null: read off the model."""


@dataclass
class DimConf:
    """An extent that each item may have its own of, such as a text's length."""

    max: int
    min: int = 1


@dataclass
class ModelConf:
    name: str = "model"
    build: dict[str, Any] = field(default_factory=dict)
    inputs: Any = None
    """A mapping from each input's name to an InputConf; untyped, so that one override can give it whole."""
    dims: Any = None
    """A mapping from the dimensions that inputs may name in their shapes to DimConfs."""
    output: Any = None
    """Which field of the result; a list of fields; null for all."""
    workload: Any = None
    """What Conf.workload is where it is null."""
    generates: bool = False
    """Whether it scores the next token of a text: see GenerationConf."""


@dataclass
class DeviceConf:
    """A kind of hardware. Quantities are numbers in SI units or text with a unit."""

    execution: str = "cpu"
    dtype: str = "float32"
    peak: dict[str, Any] = field(default_factory=dict)
    """Operations a second for each dtype; `dtype` names the one that counts."""
    efficiency: float = 0.7
    """The share of the peak that matrix products reach."""
    memory_bandwidth: Any = "10GB/s"
    memory: Any = "4GB"
    """What a rank may use."""
    runtime_memory: Any = "400MB"
    """What the runtime itself takes of it."""
    launch_overhead: Any = "10us"
    """Seconds that each unit costs beside its work."""
    network: Any = "1Gbps"
    """The rate of its network interface, where the host says nothing."""
    precision: str | None = None
    """Of this kind's products, as `precision` names them (auto too); null: `precision.format`."""
    precisions: list[str] = field(default_factory=list)
    """Those for which ranks have kernels here that reach the peak of their dtype; in others products are predicted to
    take as long as in fp32."""
    threads: int = 0
    """Intra-op threads; 0: as many as the machine has cores."""
    cpu_share: float | None = None
    """This kind is so many cores of the machine that was profiled: times become the larger of the seconds measured and
    the CPU seconds over the share, and --emulate grants its hosts as many. Null: the whole machine."""
    profile_of: str | None = None
    """The device whose profile holds for this kind; null: its own."""
    python: str = ""
    """The newest Python its vendor's system ships; empty: unknown. Below 3.10 a board can only be planned for."""
    source: str = ""


@dataclass
class HostConf:
    device: str = "???"
    count: int = 1
    """More than one: hosts NAME-1 to NAME-N, with addresses and ports counting up."""
    address: str = "127.0.0.1"
    port: int = 29500
    bandwidth: Any = None
    memory: Any = None
    threads: int | None = None
    cpu_share: float | None = None


@dataclass
class NetworkConf:
    model: str = "host"
    latency: Any = "200us"
    bandwidth: Any = None
    """The channel's rate where model is shared."""
    pairs: Any = None
    """Where model is pairwise: `a->b: 50Mbps` or `a->b: {bandwidth: 50Mbps, latency: 1ms}`; the rest: as for host."""


@dataclass
class HostsConf:
    count: int | None = None
    """Use only the first so many hosts; null: all."""
    data_host: str | None = None
    """The host that feeds inputs and takes results; null: the first."""
    network: NetworkConf = field(default_factory=NetworkConf)
    members: dict[str, HostConf] = field(default_factory=dict)


@dataclass
class ConstraintsConf:
    """What every plan must keep to."""

    pin: Any = None
    """Unit range (`3-7`), unit number or module name: the host or device kind, or a list of them, that must run it."""
    together: list[Any] = field(default_factory=list)
    """Pairs of modules or units that must share a stage."""
    exclude: list[str] = field(default_factory=list)
    host_order: list[str] | None = None
    max_hosts: int | None = None
    min_throughput: float | None = None
    """Items a second."""
    max_latency: Any = None


@dataclass
class ScheduleConf:
    method: ScheduleMethod = ScheduleMethod.exact
    objective: str = "period"
    """period, latency, or period_under_latency (with constraints.max_latency); of a language model also throughput (of
    all slots), token_latency (of one stream) or first_token (of a usual prompt)."""
    cuts: list[Any] = field(default_factory=list)
    """For manual: module names or unit numbers where a stage begins."""
    units: list[int] = field(default_factory=list)
    """For manual: first and last unit of each stage, `[0,99,100,301]`."""
    pipeedge_partition: list[int] = field(default_factory=list)
    """For manual: PipeEdge's numbers, four to a block, 1-based: `[1,24,25,48]`."""
    hosts: list[str] = field(default_factory=list)
    """For manual, even and single: which host runs each stage, in order; for other systems' schedulers (pipeedge,
    pipeedge_shipped, greedy_memory): which may run one; empty: as listed."""
    state_budget: int = 50_000_000
    """Combinations of used hosts that the exact search may tell apart before a bounded search takes over."""
    constraints: ConstraintsConf = field(default_factory=ConstraintsConf)


@dataclass
class ProfileConf:
    """Where the units' times come from; the keys from `device` on are what edgeprofile measures, and how."""

    method: ProfileMethod = ProfileMethod.auto
    quick: Any = "20s"
    """With profile=auto: how long compiling may take to measure each kind of device that is this machine, where no
    profile fits; 0s: it is not measured. $EDGECOMPILE_QUICK has another value for all compiles."""
    folder: str = "profiles"
    """Where edgeprofile writes and profile=measured looks: FOLDER/DEVICE-MODEL.yaml."""
    files: dict[str, str] = field(default_factory=dict)
    """A device's profile that lies elsewhere."""
    outside: str = "refuse"
    """For a microbatch, or an extent, outside of those measured: refuse, or analytic (the roofline, scaled to meet the
    nearest)."""
    device: str | None = None
    """Which of `devices` this machine is; null: the only one."""
    microbatches: list[int] = field(default_factory=lambda: [1, 8])
    """Each is measured; in between times are interpolated."""
    extents: list[int] = field(default_factory=list)
    """Where items of the model differ in one dimension, such as their length: the extents at which each microbatch is
    measured, beside the largest; empty: the least, and a sixteenth and a third of the largest."""
    rounds: int = 15
    """How often everything is measured at each microbatch and extent."""
    time_limit: Any = "60s"
    """For the rounds of each microbatch, all extents together; three are measured whatever they take."""
    max_memory: Any = "1GB"
    """For the weights and activations that are held at once; the model is measured in pieces that fit."""
    busy_cores: int = 0
    """Other cores to keep busy with matrix products meanwhile, as the other ranks of a shared machine do."""


@dataclass
class WireConf:
    """How float32 tensors travel between stages; all other tensors travel as they are."""

    format: str = "fp32"
    per_cut: list[str] = field(default_factory=list)
    """A format for each cut, in order, where the cuts are given (schedule=manual, even); empty: `format` for all."""
    scale: str = "channel"
    """Integer formats: an offset and a step for each item, or for each channel of an item whose codes outweigh them."""
    clipping: bool = True
    """Integer formats of 6 bits and fewer: clip an item's outliers where that lowers the error; fit int2's levels."""
    max_error: float = 0.5
    """The largest error that the formats may make on the golden items, relative to each output's largest value."""


@dataclass
class PrecisionConf:
    """How products of activations and weights are computed; everything else is in float32."""

    format: str = "fp32"
    """fp32, bf16, fp16, int8 (weights scaled by output channel, activations by row when they are there), int8_weights
    and int4_weights (weights alone, those of embeddings too, and activations in bf16), or auto: for each kind of device
    the fastest one within the budget, chosen with the cuts."""
    keep: list[str] = field(default_factory=list)
    """Modules whose products stay in fp32, such as [classifier]."""
    calibration: str | None = None
    """A file or folder of items, as `edgelaunch --input` takes it, for convolutions in int8: their activations get the
    range that they have on these (at most `accuracy.most_items`); null: each item's own, when it is there."""


@dataclass
class AccuracyConf:
    """What a precision may cost."""

    budget: float = 0.01
    """The largest error of each output on the golden items, or on `items`: its squares over those of the model in
    float64 (of `items`: in its own precision)."""
    agreement: float | None = None
    """The least share of golden items whose largest value (a label, say) stays where it is, and of values that stay the
    same in outputs of whole numbers; null: it is only told."""
    items: str | None = None
    """A file or folder of your own items, as `edgelaunch --input` takes it: budget and agreement then hold on these,
    and the plan says what they are on the golden items too, and, with labels, how many are right before and after.
    Null: those of `precision.calibration`, if there are any."""
    most_items: int = 256
    """At most so many of them, from the first on."""


@dataclass
class ArtifactConf:
    """What a shard is: torchscript (frozen), pt2 (torch.export's ExportedProgram), or none: a plan alone, to be
    compared with others."""

    format: str = "torchscript"
    per_stage: list[str] = field(default_factory=list)
    """A format for each stage, in order; empty: `format` for all."""
    bundle: bool = False
    """True: each shard holds its weights itself, so that torch.jit.load runs it alone, from C++ too. Otherwise weights
    are stored once, beside the shards, whatever number of stages, fallbacks and replicas need them."""


@dataclass
class DataConf:
    kind: str = "tensor"
    size: list[int] = field(default_factory=lambda: [224, 224])
    resize: int | None = None
    pixels: str = "float32"
    """What travels of an image: float32, normalised by the data host, or uint8, normalised in the first shard."""
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    interpolation: str = "bicubic"
    tokenizer: str | None = None
    max_length: int | None = None
    """Tokens an item; null: as long as the model's input of ids."""
    ids: str = "input_ids"
    mask: str | None = "attention_mask"
    types: str | None = "token_type_ids"
    result: str = "array"
    scores: str | None = None
    labels: Any = None
    """A list of class names, or a text file with one a line: one for each class, in their order."""
    top_k: int = 5


@dataclass
class RuntimeConf:
    num_buffers_in: int = NUM_BUFFERS_IN
    """Microbatches that a stage holds or receives, the one that it computes on included. With two, a busy link waits
    whenever the stage is late."""
    num_buffers_out: int = NUM_BUFFERS_OUT
    """Results of a stage that wait for the link or are under way."""
    timeout: Any = "60s"
    """How long ranks wait for each other to join."""
    detect: Any = "10s"
    """A rank that is silent for so long is lost, and a link through which nothing comes for so long is cut. On slow
    links 4.5 times what a message takes, or 64 KiB of it, counts if it is more."""
    rejoin: Any = "60s"
    """How long the others wait for a lost rank or a cut link that they need; 0: the run ends at once."""
    prepack: str = "auto"
    """Weights rearranged once for oneDNN's products: auto (x86 processors other than Intel's), always or never."""
    window: int = 4
    """Where messages vary in size: from so many microbatches' worth of items those of a message are chosen, so that
    items of like extents share one."""
    max_wait: Any = "5ms"
    """And so long an item waits at most for others to share its message."""
    batch_tokens: int | None = None
    """And so many positions a message has at most: items times their largest extents, such as tokens."""
    # The key is `import`, which Python keeps for itself: only getattr reads the attribute, and no __init__ can take it.
    __annotations__["import"] = "Any"
    vars()["import"] = field(default=None, init=False, repr=False, compare=False)
    """Modules that register operators of the model's own (torch.library): a list of names, which every rank imports
    before it loads its shard. null: those that the model's operators name, where all do."""


@dataclass
class GenerationConf:
    """How a language model generates text, and what its plan is made for."""

    slots: int = 4
    """Sequences that are held at once, and streams that the plan is made for."""
    context: int = 1024
    """Tokens of a sequence, its prompt included."""
    chunk: int = 64
    """Tokens of a prompt that a message has at most."""
    prompt: int = 128
    """Tokens of a usual prompt."""
    tokens: int = 128
    """That usually follow it."""
    candidates: int = 64
    """The most likely next tokens, of which the data host chooses: top_k is at most as large."""
    cache: str = "auto"
    """What keys and values are kept in: fp32, or bf16, which takes half the memory and rounds what attention weighs.
    auto: bf16 where every kind of device computes in a lower precision that was asked for by name, else fp32."""
    tokenizer: str | None = None
    """tokenizer.json, or a folder with one and its chat template; null: what lies beside the weights, or in them."""


@dataclass
class Conf:
    model: ModelConf = field(default_factory=ModelConf)
    devices: dict[str, DeviceConf] = field(default_factory=dict)
    hosts: HostsConf = field(default_factory=HostsConf)
    microbatch: Any = "auto"
    """Items of a message; at most, where sizes vary. auto: the least number, up to 64, that is predicted to come within
    10 % of the fastest; 1 for a model that mixes the items of a message or fixes their number."""
    workload: Any = None
    """What items the plan is made for, where the model lets them differ: a text file, a sentence a line, or extents
    such as {length: [8, 16, 100]} or {length: {16: 0.9, 128: 0.1}}; null: the model option's."""
    weights: str | None = None
    """Google's ViT .npz, a .safetensors, .bin, .pt, .pth or .ckpt file, or a save_pretrained directory; null: seeded
    random."""
    weights_prefix: str = ""
    """What the file's names begin with and the model's do not, such as `module.`."""
    weights_unused: str = "refuse"
    """Tensors of the file that tell of another model, such as more blocks: refuse, or ignore."""
    capture: CaptureMethod = CaptureMethod.export
    passes: dict[str, bool] = field(default_factory=dict)
    schedule: ScheduleConf = field(default_factory=ScheduleConf)
    profile: ProfileConf = field(default_factory=ProfileConf)
    wire: WireConf = field(default_factory=WireConf)
    precision: PrecisionConf = field(default_factory=PrecisionConf)
    accuracy: AccuracyConf = field(default_factory=AccuracyConf)
    artifact: ArtifactConf = field(default_factory=ArtifactConf)
    data: DataConf = field(default_factory=DataConf)
    generation: GenerationConf = field(default_factory=GenerationConf)
    runtime: RuntimeConf = field(default_factory=RuntimeConf)
    reference: bool = False
    """Whether to write the unsplit model too, so that `edgelaunch --verify` compares every item."""
    contingency: int = 0
    """1: plan for the loss of each single host too, and write the shards that the others then run."""
    seed: int = 0
    output_dir: str = "outputs"
