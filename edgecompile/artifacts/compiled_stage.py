"""One stage on its way to a file: what is decided of it, and, once it is written, its shard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from edgecompile.artifacts.lowering import Lowering, LowWeights
from edgecompile.artifacts.shards import NO_SHARD, RAW, Shard, write_shard
from edgecompile.artifacts.weight_store import WeightStore
from edgecompile.config.cluster_spec import Cluster
from edgecompile.config.request import ArtifactRequest, CompileRequest
from edgecompile.contract.closed_sets import Artifact, Precision
from edgecompile.contract.errors import UserError
from edgecompile.execution.opened_shard import open_shard
from edgecompile.execution.torchscript import why_unusable
from edgecompile.frontend.chain.units import Chain
from edgecompile.models.mapped_memory import MappedMemory
from edgecompile.planning.problem import Schedule, StageResult
from edgecompile.wire.formats import WireFormat

__all__ = [
    "CompiledPipeline",
    "CompiledStage",
    "StageDesign",
    "StageWriter",
    "design_stages",
    "finished",
    "precision_of",
    "stage_artifacts",
    "unwritten",
    "usable_artifacts",
]


@dataclass(frozen=True, kw_only=True)
class StageDesign:
    """A stage before it is written."""

    placed: StageResult
    """Its units, its host and what it costs."""
    incoming: WireFormat
    outgoing: WireFormat
    artifact: Artifact
    precision: Precision = Precision.FP32
    """Of its products with weights."""


@dataclass(frozen=True, kw_only=True)
class CompiledStage(StageDesign):
    shard: Shard


@dataclass(frozen=True, kw_only=True)
class CompiledPipeline:
    """A schedule with its shards: the plan's own, or that after the loss of a host."""

    schedule: Schedule
    stages: tuple[CompiledStage, ...]
    outputs: tuple[torch.Tensor, ...]
    """What the shards make of the golden items."""
    others: tuple[tuple[torch.Tensor, ...], ...] = ()
    """What they make of messages of other sizes."""


def design_stages(
    schedule: Schedule,
    cuts: Sequence[WireFormat],
    artifacts: Sequence[Artifact],
    cluster: Cluster,
    lowered: Mapping[Precision, Collection[int]],
) -> tuple[StageDesign, ...]:
    """
    Args:
        cuts: the format of each cut, one less than stages.
        artifacts: what each stage's shard is.
        cluster: whose devices say the precision.
        lowered: the units that each precision changes; a stage without one is in float32.
    """
    ends = [RAW, *cuts, RAW]
    return tuple(
        StageDesign(
            placed=placed, incoming=ends[index], outgoing=ends[index + 1], artifact=artifacts[index],
            precision=precision_of(placed, cluster, lowered),
        )
        for index, placed in enumerate(schedule.stages)
    )  # fmt: skip


def precision_of(
    placed: StageResult, cluster: Cluster, lowered: Mapping[Precision, Collection[int]]
) -> Precision:  # fmt: skip
    """Of a stage: its device's, if that changes any of its units."""
    own = cluster.device_of(cluster.hosts[placed.host]).precision
    changed = any(placed.first <= unit <= placed.last for unit in lowered.get(own, ()))
    return own if changed else Precision.FP32


def usable_artifacts(request: ArtifactRequest) -> tuple[ArtifactRequest, tuple[str, ...]]:
    """The request, with pt2 in place of TorchScript where this torch has none, and a note on that."""
    wanted = (request.format, *request.per_stage)
    reason = why_unusable() if Artifact.TORCHSCRIPT in wanted else ""
    if not reason:
        return request, ()
    found = replace(request, format=Artifact.PT2, per_stage=tuple(Artifact.PT2 for _ in request.per_stage))
    return found, (f"shards are pt2: TorchScript cannot be used with torch {torch.__version__} here ({reason})",)


def stage_artifacts(request: ArtifactRequest, num_stages: int) -> tuple[Artifact, ...]:
    """What each stage's shard is. Raises UserError where another number of stages was expected."""
    given = request.per_stage
    if given and len(given) != num_stages:
        names = [artifact.value for artifact in given]
        raise UserError(
            f"{names} names {len(names)} formats, but there are {num_stages} stages", key="artifact.per_stage"
        )
    return given or (request.format,) * num_stages


@dataclass(frozen=True, kw_only=True)
class StageWriter:
    """Writes shards, and the weights that stand beside them, into the plan's folder."""

    chain: Chain
    folder: Path
    """The plan's."""
    store: WeightStore | None
    """None: each shard holds its weights itself."""
    memory: MappedMemory | None = None
    low: LowWeights
    """Weights in other precisions than float32."""
    keep: tuple[str, ...] = ()
    """Modules whose products stay in float32."""
    agreement: float | None = None
    """`accuracy.agreement`"""

    @staticmethod
    def of(chain: Chain, request: CompileRequest, memory: MappedMemory) -> StageWriter:
        store = None if request.artifact.bundle else WeightStore(chain, request.folder)
        low, keep = LowWeights(bundled=request.artifact.bundle), request.precision.keep
        return StageWriter(chain=chain, folder=request.folder, store=store, memory=memory, low=low, keep=keep,
                           agreement=request.precision.agreement)  # fmt: skip

    def lowering(self, precision: Precision) -> Lowering | None:
        """What a stage of this precision is rewritten by; None: by nothing."""
        if precision is Precision.FP32:
            return None
        return Lowering(precision=precision, weights=self.low, keep=self.keep)

    def write(self, design: StageDesign, examples: Sequence[torch.Tensor]) -> CompiledStage:
        """Writes the stage's shard; `examples` as for write_shard."""
        shard = write_shard(
            self.chain, design.placed.first, design.placed.last, self.folder / "shards", examples,
            design.incoming, design.outgoing, design.artifact.value, self.store, self.lowering(design.precision),
        )  # fmt: skip
        return finished(design, shard)

    def opened(self, shard: Shard, *, packed: bool = False) -> Callable[..., Sequence[torch.Tensor]]:
        """The shard that was written, as ranks open it; `packed`: as they then prepack it."""
        opened = open_shard(shard.path, shard.artifact, self.folder)
        if self.memory is not None:
            self.memory.watch(opened.mapped)
        return opened.prepacked() if packed else opened.run


def finished(design: StageDesign, shard: Shard) -> CompiledStage:
    """The stage with its shard."""
    return CompiledStage(**vars(design), shard=shard)


def unwritten(schedule: Schedule, designs: Sequence[StageDesign]) -> CompiledPipeline:
    """The pipeline of a plan without shards."""
    return CompiledPipeline(
        schedule=schedule, stages=tuple(finished(design, NO_SHARD) for design in designs), outputs=()
    )
