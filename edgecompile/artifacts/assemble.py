"""Assembles the plan from the results of all earlier steps."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch

from edgecompile import __version__
from edgecompile.artifacts.fallbacks import Contingencies
from edgecompile.artifacts.shards import Shard
from edgecompile.config.domain import Cluster, imports_of
from edgecompile.config.readiness import planning_notes
from edgecompile.config.schema import Conf, RuntimeConf
from edgecompile.contract import cluster as plan_cluster
from edgecompile.contract import plan as p
from edgecompile.contract.plan_file import VERSION
from edgecompile.contract.quantities import parse_time
from edgecompile.frontend.chain.units import Boundary, Chain
from edgecompile.partition.machines import limits_entry, network_entry, spare_hosts
from edgecompile.partition.record import recorded
from edgecompile.planning.from_plan import bottleneck_name
from edgecompile.planning.memory import data_host_bytes, kept_inputs_bytes
from edgecompile.planning.problem import Schedule
from edgecompile.profile.analytic import Profile
from edgecompile.wire.formats import FORMATS, WireFormat, wire_tensors

__all__ = ["assemble_plan"]


def assemble_plan(
    conf: Conf,
    *,
    cluster: Cluster,
    chain: Chain,
    profile: Profile,
    schedule: Schedule,
    shards: Sequence[Shard],
    wires: Sequence[WireFormat],
    golden: p.Golden,
    data: p.DataSpec,
    origin: str,
    num_parameters: int,
    contingencies: Contingencies,
    overrides: Sequence[str],
    notes: Sequence[str] = (),
) -> p.Plan:
    """The plan; rank 0 is the data host, the others follow in the order of their stages.

    Args:
        wires: the format at both ends of each stage, one more than stages.
        notes: what the earlier steps have to say.
        overrides: what the config was asked for.
    """
    ranks = [0] + [stage.host for stage in schedule.stages if stage.host != 0]
    costs = recorded(conf, chain, profile, cluster)
    return p.Plan(
        version=VERSION,
        model=p.ModelInfo(
            name=conf.model.name,
            microbatch=conf.microbatch,
            num_parameters=num_parameters,
            weights=origin,
            capture=conf.capture.value,
        ),
        objective=conf.schedule.objective,
        predicted=_predicted(conf, schedule, cluster),
        certificate=_certificate(schedule),
        hosts=tuple(_host(rank, host, cluster) for rank, host in enumerate(ranks)),
        unused_hosts=spare_hosts(cluster, set(ranks)),
        cluster=tuple(host.name for host in cluster.hosts),
        devices=costs.devices,
        network=network_entry(cluster),
        runtime=_runtime(conf.runtime),
        inputs=_tensors(chain.boundaries[0]),
        outputs=_tensors(chain.boundaries[-1]),
        data=data,
        golden=golden,
        stages=_stages(conf, chain, schedule, shards, wires, ranks),
        scheduling=costs.scheduling,
        boundaries=costs.boundaries,
        shared_weights=costs.shared_weights,
        units=costs.units,
        notes=(*notes, *profile.notes, *planning_notes(cluster, ranks), *contingencies.notes),
        contingencies=tuple(
            p.Contingency(
                lost=cluster.hosts[item.lost].name,
                predicted=_predicted(conf, item.schedule, cluster),
                certificate=_certificate(item.schedule),
                stages=_stages(conf, chain, item.schedule, item.shards, item.wires, ranks),
            )
            for item in contingencies.fallbacks
        ),
        provenance=_provenance(overrides),
    )


def _provenance(overrides: Sequence[str]) -> p.Provenance:
    return p.Provenance(
        edgecompile=__version__,
        torch=str(torch.__version__),
        python=platform.python_version(),
        overrides=tuple(overrides),
    )


def _runtime(conf: RuntimeConf) -> p.Runtime:
    return p.Runtime(
        num_buffers_in=conf.num_buffers_in,
        num_buffers_out=conf.num_buffers_out,
        timeout_s=parse_time(conf.timeout, "runtime.timeout"),
        detect_s=parse_time(conf.detect, "runtime.detect"),
        rejoin_s=parse_time(conf.rejoin, "runtime.rejoin"),
        prepack=conf.prepack,
        imports=imports_of(conf),
    )


def _predicted(conf: Conf, schedule: Schedule, cluster: Cluster) -> p.Predicted:
    return p.Predicted(
        throughput_items_per_s=conf.microbatch / schedule.period_s,
        period_s=schedule.period_s,
        latency_s=schedule.latency_s,
        bottleneck=bottleneck_name(schedule, [host.name for host in cluster.hosts]),
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
        execution=device.execution,
        dtype=device.dtype,
        threads=host.threads,
        limits=limits_entry(host),
    )


def _tensors(boundary: Boundary, wire: WireFormat = FORMATS["fp32"]) -> tuple[p.TensorSpec, ...]:
    return tuple(spec for tensor in boundary.tensors for spec in wire_tensors(tensor, wire))


def _stages(
    conf: Conf,
    chain: Chain,
    schedule: Schedule,
    shards: Sequence[Shard],
    wires: Sequence[WireFormat],
    ranks: Sequence[int],
) -> tuple[p.Stage, ...]:
    return tuple(
        p.Stage(
            stage=index,
            rank=ranks.index(stage.host),
            units=(stage.first, stage.last),
            first_op=chain.units[stage.first].op,
            last_op=chain.units[stage.last].op,
            shard=f"shards/{shard.path.name}",
            sha256=shard.sha256,
            artifact=shard.artifact,
            inputs=_tensors(chain.boundaries[stage.first], wires[index]),
            outputs=_tensors(chain.boundaries[stage.last + 1], wires[index + 1]),
            predicted=p.StagePrediction(
                compute_s=stage.compute_s,
                send_s=stage.send_s,
                memory_bytes=stage.memory_bytes + (_ends_bytes(conf, chain, schedule) if stage.host == 0 else 0),
            ),
        )
        for index, (stage, shard) in enumerate(zip(schedule.stages, shards, strict=True))
    )


def _ends_bytes(conf: Conf, chain: Chain, schedule: Schedule) -> int:
    sizes = [sum(spec.num_bytes for spec in _tensors(chain.boundaries[end])) for end in (0, -1)]
    first, last = (schedule.stages[end].host == 0 for end in (0, -1))
    buffers = data_host_bytes(conf.runtime, *sizes, first=first, last=last)
    return buffers + kept_inputs_bytes(conf.runtime, sizes[0], len(schedule.stages))
