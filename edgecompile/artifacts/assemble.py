"""Assembles the plan from the results of all earlier steps."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from edgecompile import __version__
from edgecompile.artifacts.compiled_stage import CompiledPipeline
from edgecompile.artifacts.fallbacks import CompiledFallback
from edgecompile.config.cluster_spec import Cluster
from edgecompile.config.request import CompileRequest
from edgecompile.contract import cluster as plan_cluster
from edgecompile.contract import plan as p
from edgecompile.contract.generation import Generation
from edgecompile.contract.plan_file import VERSIONS
from edgecompile.frontend.chain.units import Boundary, Chain
from edgecompile.partition.machines import limits_entry, spare_hosts
from edgecompile.planning.from_plan import bottleneck_name
from edgecompile.planning.memory import data_host_bytes, kept_inputs_bytes
from edgecompile.planning.planning_inputs import PlanningInputs
from edgecompile.planning.problem import Schedule
from edgecompile.profile.mix import Mix, items_of
from edgecompile.wire.formats import FORMATS, WireFormat, wire_tensors

__all__ = ["Compiled", "assemble_plan", "tensor_specs"]


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the steps made of the model."""

    chain: Chain
    pipeline: CompiledPipeline
    fallbacks: tuple[CompiledFallback, ...]
    golden: p.Golden
    data: p.DataSpec
    num_parameters: int
    weights: str
    """Where they came from, in words."""
    accuracy: p.Accuracy | None
    """What the precision of the stages costs."""
    mix: Mix | None
    """Of messages that vary in size, what times are of."""
    padding: Mapping[str, float]
    """ModelInfo.padding."""
    generation: Generation | None = None
    """Of a model that generates text."""
    notes: tuple[str, ...]
    """What the steps have to say."""


def assemble_plan(
    request: CompileRequest, inputs: PlanningInputs, compiled: Compiled, overrides: Sequence[str]
) -> p.Plan:
    """The plan; rank 0 is the data host, the others follow in the order of their stages.

    Args:
        overrides: what the config was asked for.
    """
    schedule, items = compiled.pipeline.schedule, items_of(compiled.mix, request.microbatch)
    ranks = [0] + [stage.host for stage in schedule.stages if stage.host != 0]
    boundaries = compiled.chain.boundaries
    return p.Plan(
        version=VERSIONS[_is_second(compiled)],
        model=p.ModelInfo(
            name=request.model.spec.name,
            microbatch=request.microbatch,
            num_parameters=compiled.num_parameters,
            weights=compiled.weights,
            capture=request.capture.method.value,
            dims=dict(compiled.chain.captured.dims),
            padding=dict(compiled.padding),
        ),
        objective=inputs.objective.value,
        workload=_workload(compiled.mix),
        predicted=_predicted(items, inputs, schedule),
        certificate=_certificate(schedule),
        hosts=tuple(_host(rank, host, request.cluster) for rank, host in enumerate(ranks)),
        unused_hosts=spare_hosts(request.cluster, set(ranks)),
        cluster=inputs.host_names,
        devices=inputs.devices,
        network=inputs.network,
        runtime=inputs.runtime,
        inputs=tensor_specs(boundaries[0]),
        outputs=tensor_specs(boundaries[-1]),
        data=compiled.data,
        golden=compiled.golden,
        generation=compiled.generation,
        accuracy=compiled.accuracy,
        stages=_stages(request.runtime, compiled.chain, compiled.pipeline, ranks),
        scheduling=inputs.scheduling,
        boundaries=inputs.boundaries,
        shared_weights=inputs.shared_weights,
        units=inputs.units,
        notes=compiled.notes,
        contingencies=tuple(
            p.Contingency(
                lost=item.lost,
                predicted=_predicted(items, inputs, item.pipeline.schedule),
                certificate=_certificate(item.pipeline.schedule),
                stages=_stages(request.runtime, compiled.chain, item.pipeline, ranks),
            )
            for item in compiled.fallbacks
        ),
        provenance=_provenance(overrides),
    )


def _is_second(compiled: Compiled) -> bool:
    """Whether the plan has what its first version has not."""
    return bool(compiled.chain.captured.dims) or compiled.accuracy is not None or _has_weights_apart(compiled)


def _has_weights_apart(compiled: Compiled) -> bool:
    pipelines = (compiled.pipeline, *(item.pipeline for item in compiled.fallbacks))
    return any(stage.shard.weights for pipeline in pipelines for stage in pipeline.stages)


def _provenance(overrides: Sequence[str]) -> p.Provenance:
    return p.Provenance(
        edgecompile=__version__,
        torch=str(torch.__version__),
        python=platform.python_version(),
        overrides=tuple(overrides),
    )


def _workload(mix: Mix | None) -> p.Workload | None:
    if mix is None:
        return None
    return p.Workload(source=mix.source, items=mix.items, positions=mix.positions, useful=mix.useful)


def _predicted(items: float, inputs: PlanningInputs, schedule: Schedule) -> p.Predicted:
    return p.Predicted(
        throughput_items_per_s=items / schedule.period_s,
        period_s=schedule.period_s,
        latency_s=schedule.latency_s,
        bottleneck=bottleneck_name(schedule, inputs.host_names),
    )


def _certificate(schedule: Schedule) -> p.Certificate:
    return p.Certificate(
        method=schedule.certificate.method,
        period_s=schedule.certificate.period_s,
        lower_bound_s=schedule.certificate.lower_bound_s,
        gap=schedule.certificate.gap,
    )


def _host(rank: int, index: int, cluster: Cluster) -> plan_cluster.Host:
    host = cluster.hosts[index]
    device = cluster.device_of(host)
    return plan_cluster.Host(
        rank=rank,
        name=host.name,
        address=host.address,
        port=host.port,
        device=host.device,
        execution=device.execution.value,
        dtype=device.dtype,
        threads=host.threads,
        limits=limits_entry(host),
    )


def tensor_specs(boundary: Boundary, wire: WireFormat = FORMATS["fp32"]) -> tuple[p.TensorSpec, ...]:
    return tuple(spec for tensor in boundary.tensors for spec in wire_tensors(tensor, wire))


def _stages(runtime: p.Runtime, chain: Chain, pipeline: CompiledPipeline, ranks: Sequence[int]) -> tuple[p.Stage, ...]:
    ends_bytes = _ends_bytes(runtime, chain, pipeline.schedule)
    return tuple(
        p.Stage(
            stage=index,
            rank=ranks.index(placed.host),
            units=(placed.first, placed.last),
            first_op=chain.units[placed.first].op,
            last_op=chain.units[placed.last].op,
            shard=f"shards/{stage.shard.path.name}" if stage.shard.sha256 else "",
            sha256=stage.shard.sha256,
            artifact=stage.artifact.value,
            precision=stage.precision.value,
            weights=stage.shard.weights,
            inputs=tensor_specs(chain.boundaries[placed.first], stage.incoming),
            outputs=tensor_specs(chain.boundaries[placed.last + 1], stage.outgoing),
            predicted=p.StagePrediction(
                compute_s=placed.compute_s,
                send_s=placed.send_s,
                memory_bytes=placed.memory_bytes + (ends_bytes if placed.host == 0 else 0),
            ),
        )
        for index, stage in enumerate(pipeline.stages)
        for placed in (stage.placed,)
    )


def _ends_bytes(runtime: p.Runtime, chain: Chain, schedule: Schedule) -> int:
    sizes = [sum(spec.num_bytes for spec in tensor_specs(chain.boundaries[end])) for end in (0, -1)]
    first, last = (schedule.stages[end].host == 0 for end in (0, -1))
    buffers = data_host_bytes(runtime, *sizes, first=first, last=last)
    return buffers + kept_inputs_bytes(runtime, sizes[0], len(schedule.stages))
