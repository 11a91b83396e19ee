"""What must hold in a plan, rule by rule; a broken one is named with its key, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompile.errors import UserError, choices

if TYPE_CHECKING:
    from edgecompile.plan import Plan, Stage, TensorSpec

__all__ = ["DTYPE_BYTES", "check_plan"]

DTYPE_BYTES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


def check_plan(plan: Plan, where: str) -> None:
    """Raises UserError at the first rule that the plan breaks, naming the key, the value and what is allowed."""
    _require(plan.model.microbatch >= 1, where, "model.microbatch", plan.model.microbatch, "1 or more")
    _check_hosts(plan, where)
    _check_links(plan, where)
    for key, specs in (("inputs", plan.inputs), ("outputs", plan.outputs)):
        _check_tensors(specs, where, key, plan.model.microbatch)
    _check_units(plan, where)
    _check_stages(plan, plan.stages, where, "stages")
    idle = set(range(1, len(plan.hosts))) - {stage.rank for stage in plan.stages}
    _require(not idle, where, "hosts", sorted(idle), "ranks with a stage (only rank 0 may have none)")
    _check_contingencies(plan, where)
    _check_data(plan, where)
    _check_path(plan.golden.file, where, "golden.file")
    if plan.golden.reference is not None:
        _check_path(plan.golden.reference, where, "golden.reference")
        _check_sha256(plan.golden.reference_sha256 or "", where, "golden.reference_sha256")
    _check_sha256(plan.golden.sha256, where, "golden.sha256")
    missing = {spec.name for spec in plan.outputs} - set(plan.golden.tolerance)
    _require(not missing, where, "golden.tolerance", choices(missing), "a number for every output")
    _require(plan.golden.num_items >= 1, where, "golden.num_items", plan.golden.num_items, "1 or more")
    for key in ("num_buffers_in", "num_buffers_out"):
        value = getattr(plan.runtime, key)
        _require(1 <= value <= 1024, where, f"runtime.{key}", value, "1 to 1024")
    for key in ("timeout_s", "detect_s"):
        _require(getattr(plan.runtime, key) > 0, where, f"runtime.{key}", getattr(plan.runtime, key), "more than 0")
    _require(plan.runtime.rejoin_s >= 0, where, "runtime.rejoin_s", plan.runtime.rejoin_s, "0 or more")
    for key in ("throughput_items_per_s", "period_s", "latency_s"):
        value = getattr(plan.predicted, key)
        _require(value >= 0, where, f"predicted.{key}", value, "0 or more")


def _require(holds: bool, where: str, key: str, value: object, allowed: str) -> None:
    if not holds:
        raise UserError(f"{where}: {key}: {value!r} does not do: it must be {allowed}")


def _check_hosts(plan: Plan, where: str) -> None:
    _require(bool(plan.hosts), where, "hosts", [], "one host or more")
    names = [host.name for host in plan.hosts]
    for index, host in enumerate(plan.hosts):
        key = f"hosts.{index}"
        _require(host.rank == index, where, f"{key}.rank", host.rank, f"{index} (ranks count up from 0)")
        _require(names.count(host.name) == 1, where, f"{key}.name", host.name, "unlike every other host's")
        _require(1 <= host.port <= 65535, where, f"{key}.port", host.port, "1 to 65535")
        _require(host.execution in ("cpu", "cuda"), where, f"{key}.execution", host.execution, "cpu or cuda")
        _require(0 <= host.threads <= 4096, where, f"{key}.threads", host.threads, "0 to 4096")
        _require(host.limits.memory_bytes > 0, where, f"{key}.limits.memory_bytes", host.limits.memory_bytes, "over 0")
        share = host.limits.cpu_share
        _require(share is None or share > 0, where, f"{key}.limits.cpu_share", share, "over 0, or null")


def _check_links(plan: Plan, where: str) -> None:
    _require(plan.network.model in ("host", "pairwise", "shared"), where, "network.model", plan.network.model,
             "host, pairwise or shared")  # fmt: skip
    seen = set()
    for index, link in enumerate(plan.links):
        key = f"links.{index}"
        for side in ("source", "destination"):
            rank = getattr(link, side)
            _require(0 <= rank < len(plan.hosts), where, f"{key}.{side}", rank, f"a rank, 0 to {len(plan.hosts) - 1}")
        pair = (link.source, link.destination)
        _require(link.source != link.destination and pair not in seen, where, key, pair, "one link for each pair")
        seen.add(pair)
        _require(link.bandwidth_bytes_per_s > 0, where, f"{key}.bandwidth_bytes_per_s", link.bandwidth_bytes_per_s,
                 "over 0")  # fmt: skip
        _require(link.latency_s >= 0, where, f"{key}.latency_s", link.latency_s, "0 or more")


def _check_tensors(specs: tuple[TensorSpec, ...], where: str, key: str, microbatch: int | None) -> None:
    _require(bool(specs), where, key, [], "one tensor or more")
    for index, spec in enumerate(specs):
        here = f"{key}.{index}"
        _require(spec.dtype in DTYPE_BYTES, where, f"{here}.dtype", spec.dtype, "one of " + choices(DTYPE_BYTES))
        _require(all(extent >= 0 for extent in spec.shape), where, f"{here}.shape", list(spec.shape), "0 or more each")
        _require(spec.num_bytes < 1 << 40, where, f"{here}.shape", list(spec.shape), "less than 1 TiB in all")
        if microbatch is not None:
            good = len(spec.shape) >= 1 and spec.shape[0] == microbatch
            _require(good, where, f"{here}.shape", list(spec.shape), f"batched: its first extent is {microbatch}")


def _check_units(plan: Plan, where: str) -> None:
    _require(bool(plan.units), where, "units", [], "one unit or more")
    for index, unit in enumerate(plan.units):
        _require(unit.unit == index, where, f"units.{index}.unit", unit.unit, str(index))
        for key in ("flops", "weight_bytes", "activation_bytes", "live_bytes"):
            value = getattr(unit, key)
            _require(value >= 0, where, f"units.{index}.{key}", value, "0 or more")


def _check_stages(plan: Plan, stages: tuple[Stage, ...], where: str, base: str) -> None:
    _require(bool(stages), where, base, [], "one stage or more")
    following = 0
    ranks: set[int] = set()
    for index, stage in enumerate(stages):
        key = f"{base}.{index}"
        _require(stage.stage == index, where, f"{key}.stage", stage.stage, str(index))
        free = 0 <= stage.rank < len(plan.hosts) and stage.rank not in ranks
        _require(free, where, f"{key}.rank", stage.rank, f"a rank without a stage, 0 to {len(plan.hosts) - 1}")
        ranks.add(stage.rank)
        first, last = stage.units
        good = first == following and first <= last < len(plan.units)
        allowed = f"[{following}, LAST] with LAST from {following} to {len(plan.units) - 1}: no gap and no overlap"
        _require(good, where, f"{key}.units", [first, last], allowed)
        following = last + 1
        _check_path(stage.shard, where, f"{key}.shard")
        _check_sha256(stage.sha256, where, f"{key}.sha256")
        artifacts = ("torchscript", "pt2")
        _require(stage.artifact in artifacts, where, f"{key}.artifact", stage.artifact, choices(artifacts))
        _check_tensors(stage.inputs, where, f"{key}.inputs", None)
        _check_tensors(stage.outputs, where, f"{key}.outputs", None)
        before = stages[index - 1].outputs if index else plan.inputs
        _require(stage.inputs == before, where, f"{key}.inputs", [spec.name for spec in stage.inputs],
                 "what comes out of the stage before, tensor for tensor")  # fmt: skip
        for name in ("compute_s", "send_s", "memory_bytes"):
            value = getattr(stage.predicted, name)
            _require(value >= 0, where, f"{key}.predicted.{name}", value, "0 or more")
    _require(following == len(plan.units), where, f"{base}.{len(stages) - 1}.units", following - 1,
             f"{len(plan.units) - 1}, the last unit")  # fmt: skip
    _require(stages[-1].outputs == plan.outputs, where, "outputs", [spec.name for spec in plan.outputs],
             "what comes out of the last stage")  # fmt: skip


def _check_contingencies(plan: Plan, where: str) -> None:
    names = [host.name for host in plan.hosts[1:]]
    seen = set()
    for index, item in enumerate(plan.contingencies):
        key = f"contingencies.{index}"
        good = item.lost in names and item.lost not in seen
        _require(good, where, f"{key}.lost", item.lost, "one of " + choices(names) + ", each once")
        seen.add(item.lost)
        _check_stages(plan, item.stages, where, f"{key}.stages")
        ranks = [stage.rank for stage in item.stages]
        lost = 1 + names.index(item.lost)
        _require(lost not in ranks, where, f"{key}.stages", ranks, f"ranks without {lost}, which is lost")
        _require(item.predicted.period_s >= 0, where, f"{key}.predicted.period_s", item.predicted.period_s, "0 or more")


def _check_data(plan: Plan, where: str) -> None:
    data = plan.data
    kinds = ("tensor", "image", "text")
    _require(data.kind in kinds, where, "data.kind", data.kind, choices(kinds))
    _require(data.kind != "image" or data.image is not None, where, "data.image", None, "given for kind image")
    _require(data.kind != "text" or data.text is not None, where, "data.text", None, "given for kind text")
    _require(data.result in ("array", "labels"), where, "data.result", data.result, "array or labels")
    if data.result == "labels":
        names = [spec.name for spec in plan.outputs]
        _require(data.scores in names, where, "data.scores", data.scores, "one of " + choices(names))
    _require(1 <= data.top_k <= 100_000, where, "data.top_k", data.top_k, "1 to 100000")
    if data.text is not None and data.text.tokenizer is not None:
        _check_path(data.text.tokenizer, where, "data.text.tokenizer")
        _check_sha256(data.text.sha256 or "", where, "data.text.sha256")
    names = [spec.name for spec in plan.inputs]
    if data.text is not None:
        for key in ("ids", "mask", "types"):
            name = getattr(data.text, key)
            _require(name is None or name in names, where, f"data.text.{key}", name, "one of " + choices(names))


def _check_path(path: str, where: str, key: str) -> None:
    parts = Path(path).parts
    good = bool(parts) and not Path(path).is_absolute() and ".." not in parts and "\\" not in path and "\0" not in path
    _require(good, where, key, path, "a relative path below the plan's folder")


def _check_sha256(digest: str, where: str, key: str) -> None:
    good = len(digest) == 64 and all(letter in "0123456789abcdef" for letter in digest)
    _require(good, where, key, digest, "64 hexadecimal digits")
