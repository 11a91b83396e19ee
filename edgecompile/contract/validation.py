"""Validation rules for plans; an error names the key, its value and what is expected."""

from __future__ import annotations

import keyword
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompile.contract.closed_sets import (
    Artifact,
    DataKind,
    Execution,
    NetworkModel,
    Objective,
    Precision,
    Prepack,
    ResultKind,
    words_of,
)
from edgecompile.contract.dim_rules import check_batching, check_dims
from edgecompile.contract.dtypes import DTYPE_BYTES
from edgecompile.contract.errors import UserError, choices, require
from edgecompile.contract.text_rules import check_text

if TYPE_CHECKING:
    from edgecompile.contract.cluster import Host, SpareHost
    from edgecompile.contract.plan import Plan, Stage, TensorSpec

__all__ = ["MOST_BUFFERS", "MOST_HOSTS", "MOST_LABELS", "MOST_PIXELS", "MOST_S", "check_plan", "is_module_name"]

MOST_S = 2**59 / 1e12
"""The scheduler counts picoseconds in 60 bits: all times of a plan together stay below this, 6 days."""
MOST_BYTES = 1 << 62
RATES = (1e-9, float(1 << 62))
"""Bytes a second, as configs may have them."""
MOST_BUFFERS, MOST_HOSTS, MOST_LABELS, MOST_PIXELS = 1024, 1 << 30, 100_000, 1 << 16
"""At a boundary; in a constraint; that are shown for an item; of an image's side."""


def check_plan(plan: Plan, where: str) -> None:
    """Raises UserError at the first rule that the plan breaks, naming the key, the value and what is allowed."""
    require(plan.model.microbatch >= 1, where, "model.microbatch", plan.model.microbatch, "1 or more")
    _check_hosts(plan, where)
    _check_network(plan, where)
    check_dims(plan, where)
    check_text(plan, where)
    for key, specs in (("inputs", plan.inputs), ("outputs", plan.outputs)):
        _check_tensors(specs, where, key, plan.model.microbatch)
    _check_devices(plan, where)
    _check_costs(plan, where)
    _check_units(plan, where)
    _check_scheduling(plan, where)
    _check_stages(plan, plan.stages, where, "stages")
    idle = set(range(1, len(plan.hosts))) - {stage.rank for stage in plan.stages}
    require(not idle, where, "hosts", sorted(idle), "ranks with a stage (only rank 0 may have none)")
    _check_contingencies(plan, where)
    _check_data(plan, where)
    _check_golden(plan, where)
    for key in ("num_buffers_in", "num_buffers_out"):
        value = getattr(plan.runtime, key)
        require(1 <= value <= MOST_BUFFERS, where, f"runtime.{key}", value, f"1 to {MOST_BUFFERS}")
    _one_of(plan.runtime.prepack, words_of(Prepack), where, "runtime.prepack")
    for index, name in enumerate(plan.runtime.imports):
        require(is_module_name(name), where, f"runtime.imports.{index}", name, "the name of a Python module")
    for key in ("timeout_s", "detect_s"):
        value = getattr(plan.runtime, key)
        require(0 < value <= MOST_S, where, f"runtime.{key}", value, f"a number greater than 0, at most {MOST_S:.0f}")
    _time(plan.runtime.rejoin_s, where, "runtime.rejoin_s")
    _time(plan.runtime.max_wait_s, where, "runtime.max_wait_s")
    check_batching(plan, where)
    for key in ("throughput_items_per_s", "period_s", "latency_s"):
        value = getattr(plan.predicted, key)
        require(value > 0, where, f"predicted.{key}", value, "a number greater than 0")
    _check_horizon(plan, where)


def _check_golden(plan: Plan, where: str) -> None:
    golden = plan.golden
    if not plan.has_shards:
        require(not golden.file, where, "golden.file", golden.file, "empty, as there are no shards")
        return
    _check_path(golden.file, where, "golden.file")
    if golden.reference is not None:
        _check_path(golden.reference, where, "golden.reference")
        _check_sha256(golden.reference_sha256 or "", where, "golden.reference_sha256")
    _check_sha256(golden.sha256, where, "golden.sha256")
    missing = {spec.name for spec in plan.outputs} - set(golden.tolerance)
    require(not missing, where, "golden.tolerance", choices(missing), "a number for every output")
    require(golden.num_items >= 1, where, "golden.num_items", golden.num_items, "1 or more")


def is_module_name(name: str) -> bool:
    """Whether `import NAME` is Python."""
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))


def _time(value: float, where: str, key: str) -> None:
    require(0 <= value <= MOST_S, where, key, value, f"0 to {MOST_S:.0f} s")


def _size(value: int, where: str, key: str) -> None:
    require(0 <= value <= MOST_BYTES, where, key, value, "0 to 2^62 bytes")


def _rate(value: float, where: str, key: str) -> None:
    require(RATES[0] <= value <= RATES[1], where, key, value, f"{RATES[0]:g} to 2^62 bytes a second")


def _check_horizon(plan: Plan, where: str) -> None:
    """The scheduler's own bound: all units on all kinds of devices, then the dearest transfer at every stage's end."""
    widest = max(size for boundary in plan.boundaries for size in boundary.wire_bytes.values())
    figures = [host.limits.bandwidth_bytes_per_s for host in plan.all_hosts]
    figures += [plan.network.bandwidth_bytes_per_s, *(pair.bandwidth_bytes_per_s for pair in plan.network.pairs)]
    slowest = min((rate for rate in figures if rate is not None), default=RATES[1])
    codes = [max(seconds.values()) for boundary in plan.boundaries for costs in (boundary.encode_s, boundary.decode_s)
             for seconds in costs.values()]  # fmt: skip
    count = min(len(plan.cluster), len(plan.units)) + 2
    parts = {
        "units: their times": sum(seconds for unit in plan.units for seconds in unit.time_s.values()),
        "boundaries: encoding and decoding": 2 * count * max(codes, default=0.0),
        f"boundaries: {widest} bytes at {slowest:g} bytes a second": count * widest / slowest,
        "network: latencies": count * max([plan.network.latency_s, *(pair.latency_s for pair in plan.network.pairs)]),
    }
    total = sum(parts.values())
    if total >= MOST_S:
        what = max(parts, key=lambda name: parts[name])
        raise UserError(f"{where}: {what} add up to {parts[what]:.4g} s: expected less than {MOST_S:.0f} s in all")


def _check_hosts(plan: Plan, where: str) -> None:
    require(bool(plan.hosts), where, "hosts", [], "one host or more")
    names = [*(host.name for host in plan.hosts), *(host.name for host in plan.unused_hosts)]
    for index, host in enumerate(plan.hosts):
        key = f"hosts.{index}"
        require(host.rank == index, where, f"{key}.rank", host.rank, f"{index} (ranks count up from 0)")
        require(host.execution in words_of(Execution), where, f"{key}.execution", host.execution, "cpu or cuda")
        _check_host(host, names, where, key)
    for index, spare in enumerate(plan.unused_hosts):
        _check_host(spare, names, where, f"unused_hosts.{index}")
    require(sorted(plan.cluster) == sorted(names), where, "cluster", list(plan.cluster),
             "the names of all hosts and unused_hosts, each once")  # fmt: skip
    require(plan.cluster[0] == plan.hosts[0].name, where, "cluster.0", plan.cluster[0],
             f"the data host, {plan.hosts[0].name}")  # fmt: skip


def _check_host(host: Host | SpareHost, names: list[str], where: str, key: str) -> None:
    require(names.count(host.name) == 1, where, f"{key}.name", host.name, "unlike every other host's")
    require(1 <= host.port <= 65535, where, f"{key}.port", host.port, "1 to 65535")
    require(0 <= host.threads <= 4096, where, f"{key}.threads", host.threads, "0 to 4096")
    limits = host.limits
    good = 0 < limits.memory_bytes <= MOST_BYTES
    require(good, where, f"{key}.limits.memory_bytes", limits.memory_bytes, "a number greater than 0, at most 2^62")
    share = limits.cpu_share
    good = share is None or 0 < share <= 4096
    require(good, where, f"{key}.limits.cpu_share", share, "a number greater than 0, at most 4096, or null")
    if limits.bandwidth_bytes_per_s is not None:
        _rate(limits.bandwidth_bytes_per_s, where, f"{key}.limits.bandwidth_bytes_per_s")


def _check_devices(plan: Plan, where: str) -> None:
    names = [device.name for device in plan.devices]
    for index, device in enumerate(plan.devices):
        key = f"devices.{index}"
        require(names.count(device.name) == 1, where, f"{key}.name", device.name, "unlike every other device's")
        for name in ("peak_flops_per_s", "memory_bytes"):
            value = getattr(device, name)
            require(0 < value <= MOST_BYTES, where, f"{key}.{name}", value, "a number greater than 0, at most 2^62")
        for name in ("memory_bytes_per_s", "network_bytes_per_s"):
            _rate(getattr(device, name), where, f"{key}.{name}")
        _time(device.launch_s, where, f"{key}.launch_s")
        _size(device.runtime_bytes, where, f"{key}.runtime_bytes")
    for index, host in enumerate(plan.hosts):
        _one_of(host.device, names, where, f"hosts.{index}.device")
    for index, spare in enumerate(plan.unused_hosts):
        _one_of(spare.device, names, where, f"unused_hosts.{index}.device")


def _check_network(plan: Plan, where: str) -> None:
    network = plan.network
    _one_of(network.model, words_of(NetworkModel), where, "network.model")
    rate = network.bandwidth_bytes_per_s
    require((rate is not None) == (network.model == "shared"), where, "network.bandwidth_bytes_per_s",
             rate, "a rate where the model is shared, else null")  # fmt: skip
    if rate is not None:
        _rate(rate, where, "network.bandwidth_bytes_per_s")
    _time(network.latency_s, where, "network.latency_s")
    require(not network.pairs or network.model == "pairwise", where, "network.pairs", len(network.pairs),
             "empty where the model is not pairwise")  # fmt: skip
    seen = set()
    for index, pair in enumerate(network.pairs):
        key = f"network.pairs.{index}"
        for side in ("source", "destination"):
            _one_of(getattr(pair, side), plan.cluster, where, f"{key}.{side}")
        ends = (pair.source, pair.destination)
        require(pair.source != pair.destination and ends not in seen, where, key, ends, "one entry for each pair")
        seen.add(ends)
        _rate(pair.bandwidth_bytes_per_s, where, f"{key}.bandwidth_bytes_per_s")
        _time(pair.latency_s, where, f"{key}.latency_s")


def _check_costs(plan: Plan, where: str) -> None:
    devices = {device.name for device in plan.devices}
    require(bool(plan.boundaries), where, "boundaries", [], "one boundary or more")
    formats = set().union(*(boundary.wire_bytes for boundary in plan.boundaries))
    ends = (0, len(plan.boundaries) - 1)
    for index, boundary in enumerate(plan.boundaries):
        key = f"boundaries.{index}"
        require(boundary.boundary == index, where, f"{key}.boundary", boundary.boundary, str(index))
        wanted = {"fp32"} if index in ends else formats | {"fp32"}
        _check_names(boundary.wire_bytes, wanted, where, f"{key}.wire_bytes")
        for costs_key, costs in (("encode_s", boundary.encode_s), ("decode_s", boundary.decode_s)):
            _check_names(costs, devices, where, f"{key}.{costs_key}")
            for device, seconds in costs.items():
                _check_names(seconds, wanted, where, f"{key}.{costs_key}.{device}")
                for extreme in (min(seconds.values()), max(seconds.values())):
                    _time(extreme, where, f"{key}.{costs_key}.{device}")
        for name, size in boundary.wire_bytes.items():
            _size(size, where, f"{key}.wire_bytes.{name}")
    for index, weight in enumerate(plan.shared_weights):
        key = f"shared_weights.{index}"
        _size(weight.num_bytes, where, f"{key}.num_bytes")
        known = bool(weight.units) and all(0 <= unit < len(plan.units) for unit in weight.units)
        require(known, where, f"{key}.units", list(weight.units), f"units, 0 to {len(plan.units) - 1}")


def _check_names(given: Collection[str], wanted: set[str], where: str, key: str) -> None:
    require(set(given) == wanted, where, key, sorted(given), f"a figure for each of {choices(wanted)}")


def _one_of(value: str, allowed: Collection[str], where: str, key: str) -> None:
    require(value in allowed, where, key, value, "one of " + choices(allowed, value))


def _check_tensors(specs: tuple[TensorSpec, ...], where: str, key: str, microbatch: int | None) -> None:
    require(bool(specs), where, key, [], "one tensor or more")
    for index, spec in enumerate(specs):
        here = f"{key}.{index}"
        require(spec.dtype in DTYPE_BYTES, where, f"{here}.dtype", spec.dtype, "one of " + choices(DTYPE_BYTES))
        require(all(extent >= 0 for extent in spec.shape), where, f"{here}.shape", list(spec.shape), "0 or more each")
        require(spec.num_bytes < 1 << 40, where, f"{here}.shape", list(spec.shape), "less than 1 TiB in all")
        if microbatch is not None:
            good = len(spec.shape) >= 1 and spec.shape[0] == microbatch
            require(good, where, f"{here}.shape", list(spec.shape), f"batched: its first extent is {microbatch}")


def _check_units(plan: Plan, where: str) -> None:
    require(bool(plan.units), where, "units", [], "one unit or more")
    devices = {device.name for device in plan.devices}
    last = len(plan.boundaries) - 1
    for index, unit in enumerate(plan.units):
        key = f"units.{index}"
        require(unit.unit == index, where, f"{key}.unit", unit.unit, str(index))
        require(unit.flops >= 0, where, f"{key}.flops", unit.flops, "0 or more")
        for name in ("weight_bytes", "activation_bytes"):
            _size(getattr(unit, name), where, f"{key}.{name}")
        for device, saved in unit.saved_bytes.items():
            _one_of(device, sorted(devices), where, f"{key}.saved_bytes")
            good = 0 <= saved <= unit.weight_bytes
            require(good, where, f"{key}.saved_bytes.{device}", saved, "0 to weight_bytes")
        least, most = (0, 0) if index == 0 else (1, last - 1)
        require(least <= unit.boundary <= most, where, f"{key}.boundary", unit.boundary, f"{least} to {most}")
        _check_names(unit.time_s, devices, where, f"{key}.time_s")
        for device, seconds in unit.time_s.items():
            _time(seconds, where, f"{key}.time_s.{device}")


def _check_scheduling(plan: Plan, where: str) -> None:
    asked, last = plan.scheduling, len(plan.units) - 1
    formats = {"fp32"}.union(*(boundary.wire_bytes for boundary in plan.boundaries))
    _one_of(plan.objective, words_of(Objective), where, "objective")
    for key, wire in (("wire", asked.wire), *((f"per_cut.{index}", name) for index, name in enumerate(asked.per_cut))):
        require(wire in formats or len(formats) == 1, where, f"scheduling.{key}", wire, "one of " + choices(formats))
    good = len(asked.per_cut) in (0, len(plan.stages) - 1)
    require(good, where, "scheduling.per_cut", list(asked.per_cut), "empty, or a format for each cut")
    for name, hosts in (("exclude", asked.exclude), ("host_order", asked.host_order or ())):
        for index, host in enumerate(hosts):
            _one_of(host, plan.cluster, where, f"scheduling.{name}.{index}")
    for index, pin in enumerate(asked.pins):
        for host in pin.hosts:
            _one_of(host, plan.cluster, where, f"scheduling.pins.{index}.hosts")
    ranges = [(f"pins.{index}.units", pin.units) for index, pin in enumerate(asked.pins)]
    ranges += [(f"together.{index}", units) for index, units in enumerate(asked.together)]
    for key, (first, final) in ranges:
        require(0 <= first <= final <= last, where, f"scheduling.{key}", [first, final], f"units, 0 to {last}")
    for name, most in (("latency_limit_s", MOST_S), ("period_limit_s", MOST_S), ("max_hosts", MOST_HOSTS)):
        good = (value := getattr(asked, name)) is None or 0 < value <= most
        require(good, where, f"scheduling.{name}", value, f"a number greater than 0, at most {most:.0f}, or null")
    for name in ("state_budget", "messages"):
        require(getattr(asked, name) > 0, where, f"scheduling.{name}", getattr(asked, name), "a number greater than 0")


def _check_stages(plan: Plan, stages: tuple[Stage, ...], where: str, base: str) -> None:
    require(bool(stages), where, base, [], "one stage or more")
    following = 0
    ranks: set[int] = set()
    for index, stage in enumerate(stages):
        key = f"{base}.{index}"
        require(stage.stage == index, where, f"{key}.stage", stage.stage, str(index))
        free = 0 <= stage.rank < len(plan.hosts) and stage.rank not in ranks
        require(free, where, f"{key}.rank", stage.rank, f"a rank without a stage, 0 to {len(plan.hosts) - 1}")
        ranks.add(stage.rank)
        first, last = stage.units
        good = first == following and first <= last < len(plan.units)
        allowed = f"[{following}, LAST] with LAST from {following} to {len(plan.units) - 1}: no gap and no overlap"
        require(good, where, f"{key}.units", [first, last], allowed)
        following = last + 1
        none = stage.artifact == Artifact.NONE.value
        good = none == (not stage.shard) == (not plan.has_shards)
        require(good, where, f"{key}.artifact", stage.artifact, "none of all stages, without shards, or of no stage")
        if not none:
            _check_path(stage.shard, where, f"{key}.shard")
            _check_sha256(stage.sha256, where, f"{key}.sha256")
        for place, sha256 in enumerate(stage.weights):
            _check_sha256(sha256, where, f"{key}.weights.{place}")
        artifacts = words_of(Artifact)
        require(stage.artifact in artifacts, where, f"{key}.artifact", stage.artifact, choices(artifacts))
        precisions = words_of(Precision)
        require(stage.precision in precisions, where, f"{key}.precision", stage.precision, choices(precisions))
        _check_tensors(stage.inputs, where, f"{key}.inputs", None)
        _check_tensors(stage.outputs, where, f"{key}.outputs", None)
        before = stages[index - 1].outputs if index else plan.inputs
        require(stage.inputs == before, where, f"{key}.inputs", [spec.name for spec in stage.inputs],
                 "the outputs of the stage before, tensor for tensor")  # fmt: skip
        for name in ("compute_s", "send_s", "memory_bytes"):
            value = getattr(stage.predicted, name)
            require(value >= 0, where, f"{key}.predicted.{name}", value, "0 or more")
    require(following == len(plan.units), where, f"{base}.{len(stages) - 1}.units", following - 1,
             f"{len(plan.units) - 1}, the last unit")  # fmt: skip
    require(stages[-1].outputs == plan.outputs, where, "outputs", [spec.name for spec in plan.outputs],
             "the outputs of the last stage")  # fmt: skip


def _check_contingencies(plan: Plan, where: str) -> None:
    names = [host.name for host in plan.hosts[1:]]
    seen = set()
    for index, item in enumerate(plan.contingencies):
        key = f"contingencies.{index}"
        good = item.lost in names and item.lost not in seen
        require(good, where, f"{key}.lost", item.lost, "one of " + choices(names) + ", each once")
        seen.add(item.lost)
        _check_stages(plan, item.stages, where, f"{key}.stages")
        ranks = [stage.rank for stage in item.stages]
        lost = 1 + names.index(item.lost)
        require(lost not in ranks, where, f"{key}.stages", ranks, f"ranks without {lost}, which is lost")
        require(
            item.predicted.period_s > 0,
            where,
            f"{key}.predicted.period_s",
            item.predicted.period_s,
            "a number greater than 0",
        )


def _check_data(plan: Plan, where: str) -> None:
    data = plan.data
    if plan.generation is not None and plan.generation.tokenizer is not None:
        _check_path(plan.generation.tokenizer, where, "generation.tokenizer")
        _check_sha256(plan.generation.sha256 or "", where, "generation.sha256")
    kinds = words_of(DataKind)
    require(data.kind in kinds, where, "data.kind", data.kind, choices(kinds))
    require(data.kind != "image" or data.image is not None, where, "data.image", None, "given for kind image")
    require(data.kind != "text" or data.text is not None, where, "data.text", None, "given for kind text")
    require(data.result in words_of(ResultKind), where, "data.result", data.result, "array or labels")
    if data.result == "labels":
        names = [spec.name for spec in plan.outputs]
        require(data.scores in names, where, "data.scores", data.scores, "one of " + choices(names))
    require(1 <= data.top_k <= MOST_LABELS, where, "data.top_k", data.top_k, f"1 to {MOST_LABELS}")
    if data.text is not None and data.text.tokenizer is not None:
        _check_path(data.text.tokenizer, where, "data.text.tokenizer")
        _check_sha256(data.text.sha256 or "", where, "data.text.sha256")
    names = [spec.name for spec in plan.inputs]
    if data.text is not None:
        for key in ("ids", "mask", "types"):
            name = getattr(data.text, key)
            require(name is None or name in names, where, f"data.text.{key}", name, "one of " + choices(names))
        long = next(spec.shape[-1] for spec in plan.inputs if spec.name == data.text.ids)
        require(data.text.max_length == long, where, "data.text.max_length", data.text.max_length,
                 f"{long}, as long as {data.text.ids}")  # fmt: skip
    if data.image is not None:
        for key, extent in (("size.0", data.image.size[0]), ("size.1", data.image.size[1]),
                            ("resize", data.image.resize)):  # fmt: skip
            require(1 <= extent <= MOST_PIXELS, where, f"data.image.{key}", extent, f"1 to {MOST_PIXELS}")
        for key in ("mean", "std"):
            values = getattr(data.image, key)
            good = len(values) == 3 and (key == "mean" or min(values) > 0)
            require(
                good, where, f"data.image.{key}", list(values), "three numbers" + ", greater than 0" * (key == "std")
            )


def _check_path(path: str, where: str, key: str) -> None:
    parts = Path(path).parts
    good = bool(parts) and not Path(path).is_absolute() and ".." not in parts and "\\" not in path and "\0" not in path
    require(good, where, key, path, "a relative path below the plan's folder")


def _check_sha256(digest: str, where: str, key: str) -> None:
    good = len(digest) == 64 and all(letter in "0123456789abcdef" for letter in digest)
    require(good, where, key, digest, "64 hexadecimal digits")
