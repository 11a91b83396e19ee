"""Reads PipeEdge's three YAML formats; the only module that knows their conventions.

The formats: models (mapping of model name to layers, mem_MB, parameters_in, parameters_out), device types (mapping of
type to mem_MB, bw_Mbps and profiles) and devices (mapping of type to host names). Here Mbps means 2^20 bit/s and MB
2^20 bytes; PipeEdge's "layer" is a unit. Reference: PipeEdge, DSD 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edgecompile.contract.errors import UserError, choices
from edgecompile.contract.yaml_decode import decode, load_yaml
from edgecompile.planning.problem import HostLinks, Kind, Problem, SchedHost, Schedule

__all__ = ["CONVERTED", "Files", "Request", "conf_options", "format_schedule", "problem_of", "read_files"]

MEBI = 1 << 20
MAX_FILE_BYTES = 256 << 20
DTYPE_BYTES = {"torch.float16": 2, "torch.bfloat16": 2, "torch.float32": 4, "torch.float64": 8}

ITEM_FLOPS = {
    "google/vit-base-patch16-224": 35.1e9,
    "google/vit-large-patch16-224": 123.1e9,
    "google/vit-huge-patch14-224-in21k": 334.4e9,
    "facebook/deit-base-distilled-patch16-224": 35.3e9,
    "facebook/deit-small-distilled-patch16-224": 9.2e9,
    "facebook/deit-tiny-distilled-patch16-224": 2.5e9,
    "bert-base-uncased": 96.6e9,
    "bert-large-uncased": 334.9e9,
}
"""Floating-point operations per item of PipeEdge's own models: twice the multiply-adds of their matrix products."""

CONVERTED = "# Converted by edgesched --to-conf from PipeEdge's files.\n"
"""The first line of an option that was converted."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What sched-pipeline's flags say."""

    model: str
    """A name in the models file."""
    dtype: str = "torch.float32"
    """Of the profile to use, and of what crosses a cut."""
    batch_size: int = 8
    """Items per microbatch, as profiled."""
    buffers_in: int = 2
    """Receive buffers of a stage."""
    buffers_out: int = 2
    """Send buffers of a stage."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """An entry of the models file."""

    layers: int
    parameters_in: int
    parameters_out: tuple[int, ...]
    mem_MB: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceType:
    """An entry of the device types file, with the one profile that the request asks for."""

    name: str
    memory_bytes: float
    """May have a fraction, as mem_MB may."""
    bandwidth_bytes_per_s: float
    time_s: tuple[float, ...]
    """Seconds of each unit at the request's batch size."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """The three files, as far as one request needs them."""

    model: Model
    types: tuple[DeviceType, ...]
    """Those with a matching profile, by name."""
    hosts: tuple[tuple[str, str], ...]
    """(host, type name) of those types, in the order of the devices file."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _TypeEntry:
    mem_MB: float
    bw_Mbps: float


@dataclass(frozen=True, kw_only=True)
class _Profile:
    dtype: str
    batch_size: int
    time_s: tuple[float, ...] = field(default=())


def read_files(request: Request, *, models: Path, types: Path, devices: Path) -> Files:
    """The three files.

    Raises:
        UserError: a file cannot be read or has other contents; names file and key.
    """
    warnings: list[str] = []
    model = _read_model(request, models, warnings)
    found = tuple(_read_types(request, types, model.layers, warnings))
    if not found:
        raise UserError(
            f"{types}: no device type has a profile of {request.model} with {request.dtype} and batch size "
            f"{request.batch_size}: profile one, or choose another -m, -d or -b"
        )
    hosts = tuple(_read_hosts(devices, {item.name for item in found}, warnings))
    if not hosts:
        raise UserError(
            f"{devices}: no host of a type with a matching profile: those types are {choices(t.name for t in found)}"
        )
    return Files(model=model, types=found, hosts=hosts, warnings=tuple(warnings))


def problem_of(request: Request, files: Files) -> Problem:
    """PipeEdge's scheduling problem: inputs and results cost nothing, and memory must stay below the device's.

    Raises:
        UserError: the dtype's size is not known, or a bandwidth is 0.
    """
    if request.dtype not in DTYPE_BYTES:
        known = choices(DTYPE_BYTES, request.dtype)
        raise UserError(f"--dtype {request.dtype} is not known: the dtypes are {known}")
    model = files.model
    item_bytes = DTYPE_BYTES[request.dtype] * request.batch_size
    cuts = tuple(item_bytes * count for count in (model.parameters_in, *model.parameters_out))
    index = {item.name: k for k, item in enumerate(files.types)}
    return Problem(
        kinds=tuple(Kind(name=item.name, unit_s=item.time_s) for item in files.types),
        hosts=tuple(_host(name, index[kind], files.types[index[kind]]) for name, kind in files.hosts),
        links=HostLinks(),
        cut_bytes=cuts,
        weight_bytes=tuple(round(size * MEBI) for size in model.mem_MB),
        activation_bytes=(0,) * model.layers,
        entry_bytes=(cuts[0], *(size * (1 + request.buffers_in) for size in cuts[1:])),
        exit_bytes=tuple(size * (1 + request.buffers_out) for size in cuts),
    )


def format_schedule(problem: Problem, schedule: Schedule) -> str:
    """PipeEdge's schedule YAML: a list of `host: [first, last]`, 1-based and inclusive, in stage order."""
    stages = [{problem.hosts[stage.host].name: [stage.first + 1, stage.last + 1]} for stage in schedule.stages]
    return yaml.safe_dump(stages, default_flow_style=None, width=1 << 20)


def conf_options(request: Request, files: Files, *, item_flops: float | None) -> tuple[str, str]:
    """The text of a devices option and of a hosts option that stand for these files.

    A type's peak is what its profile reached over the whole model, so that the analytic profile gives the measured time
    of the model again and spreads it over our units by their work. PipeEdge's own mem_MB leaves out what the system
    takes, so that nothing is kept for the runtime.

    Raises:
        UserError: the model's work is not known and `item_flops` does not say it.
    """
    flops = item_flops or ITEM_FLOPS.get(request.model)
    if flops is None:
        raise UserError(f"--to-conf: the work of {request.model} is not known: give its operations per item as --flops")
    devices = {}
    for item in files.types:
        rate = flops * request.batch_size / max(sum(item.time_s), 1e-12)
        devices[item.name] = {
            "execution": "cpu",
            "dtype": "float32",
            "peak": {"float32": f"{rate / 1e9:.6g} GFLOPS"},
            "efficiency": 1.0,
            "memory_bandwidth": "1TB/s",
            "memory": int(item.memory_bytes),
            "runtime_memory": 0,
            "launch_overhead": "0s",
            "network": f"{item.bandwidth_bytes_per_s * 8 / MEBI:.10g}Mibps",
            "source": f"PipeEdge profile of {request.model}, {request.dtype}, batch size {request.batch_size}",
        }
    members = {name.replace(".", "-"): {"device": kind, "address": name} for name, kind in files.hosts}
    hosts = {"network": {"model": "host", "latency": "0s"}, "members": members}
    return CONVERTED + _dump(devices), CONVERTED + _dump(hosts)


def _dump(value: Mapping[str, object]) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=120)


def _host(name: str, kind: int, device: DeviceType) -> SchedHost:
    if device.bandwidth_bytes_per_s <= 0:
        raise UserError(f"{device.name}: bw_Mbps is 0, but host {name} is of this type: give its bandwidth")
    # PipeEdge wants a stage's bytes below the device's, so that a whole number of them is one less at least.
    memory = max(math.ceil(device.memory_bytes) - 1, 0)
    return SchedHost(name=name, kind=kind, memory_bytes=memory, bandwidth_bytes_per_s=device.bandwidth_bytes_per_s)


def _mapping(path: Path, what: str) -> dict[Any, Any]:
    value = load_yaml(path, what=what, max_bytes=MAX_FILE_BYTES)
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a {what}: expected a mapping of names")
    return value


def _known(cls: type, value: object) -> object:
    """Only the keys that `cls` has: PipeEdge ignores others, and so its users may have some."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if key in cls.__dataclass_fields__}  # type: ignore[attr-defined]


def _read_model(request: Request, path: Path, warnings: list[str]) -> Model:
    entries = _mapping(path, "models file")
    if request.model not in entries:
        raise UserError(f"{path}: no model {request.model}: the models are {choices(entries, request.model)}")
    where = f"{path}: {request.model}"
    model = decode(Model, _known(Model, entries[request.model]), where=where)
    if model.layers < 1:
        raise UserError(f"{where}: layers is {model.layers}: there is nothing to schedule")
    outputs = model.parameters_out
    if len(model.mem_MB) != model.layers:
        raise UserError(f"{where}: mem_MB has {len(model.mem_MB)} entries: expected {model.layers}, as layers says")
    if not outputs or len(outputs) > model.layers:
        raise UserError(f"{where}: parameters_out has {len(outputs)} entries: expected {model.layers}, as layers says")
    if len(outputs) < model.layers:
        warnings.append(
            f"{where}: parameters_out has {len(outputs)} entries for {model.layers} layers: they are repeated"
        )
        outputs = tuple(outputs[k % len(outputs)] for k in range(model.layers))
    for key, values in (
        ("mem_MB", model.mem_MB),
        ("parameters_out", outputs),
        ("parameters_in", (model.parameters_in,)),
    ):
        for index, value in enumerate(values):
            if value < 0:
                raise UserError(f"{where}: {key}.{index} is {value}: it cannot be negative")
    return Model(layers=model.layers, parameters_in=model.parameters_in, parameters_out=outputs, mem_MB=model.mem_MB)


def _read_types(request: Request, path: Path, num_units: int, warnings: list[str]) -> Iterator[DeviceType]:
    for name, value in sorted(_mapping(path, "device types file").items(), key=lambda item: str(item[0])):
        where = f"{path}: {name}"
        entry = decode(_TypeEntry, _known(_TypeEntry, value), where=where)
        if entry.mem_MB < 0 or entry.bw_Mbps < 0:
            raise UserError(f"{where}: mem_MB and bw_Mbps cannot be negative")
        profiles = (value.get("model_profiles") or {}) if isinstance(value, dict) else {}
        if not isinstance(profiles, dict) or not isinstance(profiles.get(request.model) or [], list):
            raise UserError(f"{where}: model_profiles must be a mapping of models to lists of profiles")
        times = None
        for index, item in enumerate(profiles.get(request.model) or []):
            profile = decode(
                _Profile, _known(_Profile, item), where=where, key=f"model_profiles.{request.model}.{index}"
            )
            if (profile.dtype, profile.batch_size) == (request.dtype, request.batch_size):
                times = profile.time_s
        if times is None:
            warnings.append(
                f"{where}: no profile of {request.model} with {request.dtype} and batch size "
                f"{request.batch_size}: skipped"
            )
            continue
        if len(times) != num_units:
            raise UserError(
                f"{where}: time_s has {len(times)} entries: expected {num_units}, as the model's layers say"
            )
        for index, seconds in enumerate(times):
            if seconds < 0:
                raise UserError(f"{where}: time_s.{index} is {seconds}: it cannot be negative")
        bandwidth = entry.bw_Mbps * MEBI / 8
        yield DeviceType(
            name=str(name), memory_bytes=entry.mem_MB * MEBI, bandwidth_bytes_per_s=bandwidth, time_s=times
        )


def _read_hosts(path: Path, known: set[str], warnings: list[str]) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for name, hosts in _mapping(path, "devices file").items():
        if hosts is not None and not (isinstance(hosts, list) and all(isinstance(host, str) for host in hosts)):
            raise UserError(f"{path}: {name}: expected a list of host names")
        if hosts and str(name) not in known:
            warnings.append(
                f"{path}: {name}: its {len(hosts)} hosts are skipped, since the type has no matching profile"
            )
            continue
        for host in hosts or ():
            if host in seen:
                raise UserError(f"{path}: the host {host} is listed under {seen[host]} and under {name}: list it once")
            seen[host] = str(name)
            yield host, str(name)
