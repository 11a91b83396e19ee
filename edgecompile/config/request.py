"""The request of a compile: the config, fully parsed and checked, as frozen objects, before torch is imported.

The composed config is mutable and full of text; here it becomes a CompileRequest, in one place, and each step of the
compiler takes its own part of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgecompile.config.cluster_spec import Cluster, cluster_of
from edgecompile.config.data_request import DataRequest, Scaling, check_data_words, data_of, pixel_scaling
from edgecompile.config.generation_request import GenerationRequest, cache_of, generation_of
from edgecompile.config.methods import (
    PASS_NAMES,
    CaptureMethod,
    OutsideProfile,
    ProfileMethod,
    ScheduleMethod,
    UnusedWeights,
    WireScale,
)
from edgecompile.config.model_spec import ModelSpec, as_pixels, model_of
from edgecompile.config.resources import resource_path
from edgecompile.config.schedule_request import ScheduleRequest, check_schedule_values, schedule_of
from edgecompile.config.schema import Conf, ProfileConf, RuntimeConf, ScheduleConf, WireConf
from edgecompile.config.value_checks import at_least, between, member, over_zero, seconds, switch
from edgecompile.config.workload_request import WorkloadRequest, workload_of
from edgecompile.contract.closed_sets import AUTO, Artifact, Precision, Prepack, WireName
from edgecompile.contract.dim_rules import MOST_WINDOW
from edgecompile.contract.errors import UserError, choices, invalid_value
from edgecompile.contract.plan import Runtime
from edgecompile.contract.validation import MOST_BUFFERS, is_module_name

__all__ = [
    "ArtifactRequest",
    "Asked",
    "CaptureRequest",
    "CompileRequest",
    "ModelRequest",
    "PrecisionRequest",
    "ProfileRequest",
    "WeightsRequest",
    "WireRequest",
    "capture_of",
    "check_values",
    "model_request",
    "precision_of",
    "profile_of",
    "request_of",
    "runtime_of",
    "wire_of",
]

MOST_SEED = 1 << 53
MOST_ITEMS = 1 << 20
"""Of a microbatch: the model is run on one, and more would fill any memory first."""


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """What the model is built and called with."""

    spec: ModelSpec
    """With pixels, the first input is bytes."""
    pixels: Scaling | None
    """What the first shard does to images of bytes; None: they travel as the model takes them."""
    imports: tuple[str, ...]
    """Modules that register the model's own operators."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class WeightsRequest:
    file: str | None
    """A file or folder, or pkg://; None: random weights."""
    prefix: str
    unused: UnusedWeights


@dataclass(frozen=True, kw_only=True)
class CaptureRequest:
    method: CaptureMethod
    passes: Mapping[str, bool]
    fixed: str = ""
    """Why the shapes must be fixed, where they might vary; empty: they need not."""
    alike: str = ""
    """Why items of unlike extents may share no message, whatever the model does with padding; empty: they may."""


@dataclass(frozen=True, kw_only=True)
class ProfileRequest:
    """Where the units' times come from, and what a measured profile must be of."""

    method: ProfileMethod
    folder: str
    files: Mapping[str, str]
    outside: OutsideProfile
    model: str
    microbatch: int
    prepack: Prepack
    keep: tuple[str, ...] = ()
    """`precision.keep`"""
    quick_s: float = 0.0
    """With auto: what measuring a kind that is this machine may take; 0: it is not measured."""
    measured: Mapping[tuple[str, Precision], Path] | None = None
    """With auto: the profiles that fit, by the kind of device and its precision; None: nobody has looked yet."""

    @property
    def by_data_sheet(self) -> bool:
        """Whether no kind has a profile."""
        auto = self.method is ProfileMethod.auto
        return self.method is ProfileMethod.analytic or (auto and not self.measured)

    def precisions_of(self, device: str) -> tuple[Precision, ...]:
        """Those in which a profile of this kind fits."""
        return tuple(precision for name, precision in self.measured or () if name == device)


@dataclass(frozen=True, kw_only=True)
class WireRequest:
    format: WireName
    per_cut: tuple[WireName, ...]
    scale: WireScale
    clipping: bool
    max_error: float

    @property
    def may_lose(self) -> bool:
        """Whether any of the formats is lossy."""
        return any(name is not WireName.FP32 for name in (self.format, *self.per_cut))


@dataclass(frozen=True, kw_only=True)
class PrecisionRequest:
    """Beside the precision of each device."""

    keep: tuple[str, ...] = ()
    """Modules whose products stay in float32."""
    budget: float = 0.01
    """The largest squared error of an output, relative to the model's in float64."""
    agreement: float | None = None
    """The least share of items, or values, that stay as they are."""
    items: Path | None = None
    """The user's own, as for --input, that budget and agreement hold on (of calibration, if there are no others); None:
    on the golden items."""
    most_items: int = 256
    calibration: Path | None = None
    """The items that tell the range of activations; None: each item tells its own."""


@dataclass(frozen=True, kw_only=True)
class ArtifactRequest:
    format: Artifact
    per_stage: tuple[Artifact, ...]
    bundle: bool


@dataclass(frozen=True, kw_only=True)
class CompileRequest:
    model: ModelRequest
    cluster: Cluster
    microbatch: int
    auto_microbatch: bool
    """Whether it is still to be chosen, by what is predicted."""
    workload: WorkloadRequest | None
    weights: WeightsRequest
    capture: CaptureRequest
    schedule: ScheduleRequest
    profile: ProfileRequest
    wire: WireRequest
    precision: PrecisionRequest
    artifact: ArtifactRequest
    data: DataRequest
    generation: GenerationRequest | None = None
    """None: the model generates no text."""
    runtime: Runtime
    reference: bool
    contingency: bool
    folder: Path


Asked = Conf | CompileRequest
"""What programs may hand to compile_model."""


def request_of(asked: Asked) -> CompileRequest:
    """The composed config as a request; a request as it is.

    Raises:
        UserError: a value is not allowed, two of them contradict each other, or a file is missing; names the key.
    """
    if isinstance(asked, CompileRequest):
        return asked
    conf = asked
    check_values(conf)
    microbatch, generation = _microbatch(conf), generation_of(conf)
    if generation is not None and conf.microbatch == AUTO:
        microbatch = generation.slots
    cluster = cluster_of(conf)
    model = model_request(conf, cluster)
    if conf.weights is not None:
        resource_path(conf.weights, "weights")
    return CompileRequest(
        model=model,
        cluster=cluster,
        microbatch=microbatch,
        auto_microbatch=conf.microbatch == AUTO and generation is None,
        workload=workload_of(conf.workload, conf.model.workload, model.spec),
        weights=WeightsRequest(
            file=conf.weights,
            prefix=conf.weights_prefix,
            unused=member(UnusedWeights, conf.weights_unused, "weights_unused"),
        ),
        capture=capture_of(conf),
        schedule=schedule_of(conf.schedule, cluster, microbatch),
        profile=replace(profile_of(conf), microbatch=microbatch),
        wire=wire_of(conf.wire, conf.schedule),
        precision=precision_of(conf),
        artifact=_artifact(conf),
        data=data_of(conf.data, model_of(conf.model)),
        generation=generation,
        runtime=runtime_of(conf.runtime),
        reference=conf.reference,
        contingency=bool(conf.contingency),
        folder=Path(conf.output_dir),
    )


def check_values(conf: Conf) -> None:
    """The values that are not allowed whatever the model and the cluster are. Raises UserError."""
    _microbatch(conf)
    member(UnusedWeights, conf.weights_unused, "weights_unused")
    between(conf.contingency, 0, 1, "contingency")
    between(conf.seed, -MOST_SEED, MOST_SEED, "seed")
    check_data_words(conf.data)
    check_schedule_values(conf.schedule)
    capture_of(conf)
    member(OutsideProfile, conf.profile.outside, "profile.outside")
    wire_of(conf.wire, conf.schedule)
    precision_of(conf)
    _artifact(conf)
    runtime_of(conf.runtime)
    generation_of(conf)


def _microbatch(conf: Conf) -> int:
    """1 where it is to be chosen."""
    given = conf.microbatch
    if given == AUTO:
        return 1
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_ITEMS:
        raise invalid_value(given, "microbatch", f"1 to {MOST_ITEMS:,}, or {AUTO}")
    return given


def model_request(conf: Conf, cluster: Cluster) -> ModelRequest:
    """Raises UserError where the model option is not complete, or does not fit `data.pixels`."""
    spec, generation = model_of(conf.model), generation_of(conf)
    if generation is not None:
        spec = replace(spec, usual_context=generation.usual_context, cache=cache_of(generation, cluster))
    pixels = pixel_scaling(conf.data, spec)
    return ModelRequest(
        spec=spec if pixels is None else as_pixels(spec),
        pixels=pixels,
        imports=_imports(conf.runtime),
        seed=conf.seed,
    )


def capture_of(conf: Conf) -> CaptureRequest:
    """Raises UserError for a switch of no pass."""
    passes = {switch(name, PASS_NAMES, "passes"): on for name, on in conf.passes.items()}
    return CaptureRequest(method=conf.capture, passes=passes, fixed=_why_fixed(conf), alike=_why_alike(conf))


def _why_alike(conf: Conf) -> str:
    coded = [name for name in (conf.wire.format, *conf.wire.per_cut) if str(name).startswith("int")]
    return f"wire={coded[0]} scales all positions of an item alike, those of padding included" if coded else ""


def _why_fixed(conf: Conf) -> str:
    if conf.capture is not CaptureMethod.export:
        return f"capture={conf.capture.value} writes shapes down as numbers"
    return ""


def profile_of(conf: Conf) -> ProfileRequest:
    """Raises UserError for a value that is not allowed, or files of devices that are not there."""
    given: ProfileConf = conf.profile
    if given.method is not ProfileMethod.analytic:
        for name in given.files:
            if name not in conf.devices:
                known = choices(conf.devices, name)
                key = f"profile.files.{name}"
                raise UserError(f"no device kind {name!r}", key=key, fix=f"the kinds here are {known}")
    return ProfileRequest(
        method=given.method,
        folder=given.folder,
        files=dict(given.files),
        outside=member(OutsideProfile, given.outside, "profile.outside"),
        model=conf.model.name,
        microbatch=_microbatch(conf),
        prepack=member(Prepack, conf.runtime.prepack, "runtime.prepack"),
        keep=tuple(conf.precision.keep),
        quick_s=seconds(given.quick, "profile.quick"),
    )


def wire_of(conf: WireConf, schedule: ScheduleConf) -> WireRequest:
    """Raises UserError for an unknown format, or formats for cuts that the schedule is yet to choose."""
    per_cut = tuple(member(WireName, name, f"wire.per_cut.{place}") for place, name in enumerate(conf.per_cut))
    if per_cut and schedule.method is ScheduleMethod.exact:
        raise UserError("wire.per_cut: schedule=exact chooses the cuts itself: use wire=FORMAT, or give the cuts")
    return WireRequest(
        format=member(WireName, conf.format, "wire.format"),
        per_cut=per_cut,
        scale=member(WireScale, conf.scale, "wire.scale"),
        clipping=conf.clipping,
        max_error=over_zero(conf.max_error, "wire.max_error"),
    )


def precision_of(conf: Conf) -> PrecisionRequest:
    """Raises UserError for a budget of nothing, or a share that is none."""
    asked, given = conf.accuracy, conf.precision.calibration
    calibration = None if given is None else resource_path(given, "precision.calibration")
    return PrecisionRequest(
        keep=tuple(conf.precision.keep),
        budget=over_zero(asked.budget, "accuracy.budget"),
        agreement=None if asked.agreement is None else over_zero(asked.agreement, "accuracy.agreement", 1),
        items=calibration if asked.items is None else resource_path(asked.items, "accuracy.items"),
        most_items=between(asked.most_items, 1, MOST_ITEMS, "accuracy.most_items"),
        calibration=calibration,
    )


def _artifact(conf: Conf) -> ArtifactRequest:
    asked = conf.artifact
    found = ArtifactRequest(
        format=member(Artifact, asked.format, "artifact.format"),
        per_stage=tuple(
            member(Artifact, name, f"artifact.per_stage.{place}") for place, name in enumerate(asked.per_stage)
        ),
        bundle=asked.bundle,
    )
    if Artifact.NONE in found.per_stage or (found.per_stage and found.format is Artifact.NONE):
        raise UserError("artifact.per_stage: a plan has shards or none: artifact=none is for all stages")
    if conf.reference and found.format is Artifact.NONE:
        raise UserError("reference=true writes the unsplit model to compare shards with", fix="artifact=none has none")
    return found


def runtime_of(conf: RuntimeConf) -> Runtime:
    """The runtime option as plans hold it. Raises UserError."""
    return Runtime(
        num_buffers_in=between(conf.num_buffers_in, 1, MOST_BUFFERS, "runtime.num_buffers_in"),
        num_buffers_out=between(conf.num_buffers_out, 1, MOST_BUFFERS, "runtime.num_buffers_out"),
        timeout_s=seconds(conf.timeout, "runtime.timeout", positive=True),
        detect_s=seconds(conf.detect, "runtime.detect", positive=True),
        rejoin_s=seconds(conf.rejoin, "runtime.rejoin"),
        prepack=member(Prepack, conf.prepack, "runtime.prepack").value,
        imports=_imports(conf),
        window=between(conf.window, 1, MOST_WINDOW, "runtime.window"),
        max_wait_s=seconds(conf.max_wait, "runtime.max_wait"),
        batch_tokens=None if conf.batch_tokens is None else at_least(conf.batch_tokens, 1, "runtime.batch_tokens"),
    )


def _imports(conf: RuntimeConf) -> tuple[str, ...]:
    value = getattr(conf, "import")
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and is_module_name(name) for name in names):
        raise invalid_value(value, "runtime.import", "a list of modules, such as [my_ops]")
    return tuple(names)
