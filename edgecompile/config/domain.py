"""The config's models and clusters as frozen objects in SI units, with all checks on their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from edgecompile.config.schema import (
    Conf,
    DataConf,
    DeviceConf,
    HostConf,
    InputConf,
    ModelConf,
    NetworkConf,
    RuntimeConf,
)
from edgecompile.contract.dtypes import DTYPE_BYTES
from edgecompile.contract.errors import UserError, choices
from edgecompile.contract.quantities import parse_bytes, parse_flops, parse_rate, parse_time
from edgecompile.contract.validation import PREPACK, is_module_name
from edgecompile.contract.yaml_decode import decode

__all__ = [
    "Cluster",
    "ClusterHost",
    "Device",
    "InputSpec",
    "ModelSpec",
    "cluster_of",
    "imports_of",
    "model_of",
    "to_conf",
    "with_pixels",
]

MOST_ITEMS = 1 << 20
"""Of a microbatch: the model is run on one, and more would fill any memory first."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    name: str
    shape: tuple[int, ...]
    dtype: str
    fill: str | None
    high: int | None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    name: str
    build: Mapping[str, Any]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    """The fields of the result to keep; empty: all."""


@dataclass(frozen=True, kw_only=True)
class Device:
    name: str
    execution: str
    dtype: str
    peak_flops_per_s: float
    """Of matrix products as they run: the peak of `dtype` times the efficiency."""
    memory_bytes_per_s: float
    memory_bytes: int
    runtime_bytes: int
    launch_s: float
    network_bytes_per_s: float
    threads: int
    cpu_share: float | None
    """Cores that its hosts have, where that is not the whole machine."""
    profile_of: str
    """The device whose measured profile holds."""
    python: tuple[int, ...] | None = None
    """The newest Python that its vendor's system ships; None: unknown."""


@dataclass(frozen=True, kw_only=True)
class ClusterHost:
    name: str
    device: str
    address: str
    port: int
    bandwidth_bytes_per_s: float
    memory_bytes: int
    threads: int
    cpu_share: float | None


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Devices, and hosts of which the first is the data host."""

    devices: tuple[Device, ...]
    hosts: tuple[ClusterHost, ...]
    network: str
    latency_s: float
    medium_bytes_per_s: float | None
    pairs: Mapping[tuple[str, str], tuple[float, float]]
    """Bandwidth and latency of the ordered pairs that differ from their interfaces' rates."""

    def device_of(self, host: ClusterHost) -> Device:
        return next(device for device in self.devices if device.name == host.device)


def to_conf(config: Any) -> Conf:
    """The composed config as plain dataclasses, with the rules that one key alone can break.

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    from omegaconf import OmegaConf

    conf = OmegaConf.to_object(config)
    assert isinstance(conf, Conf)
    _check_keys(conf, "")
    _at_least(conf.microbatch, 1, "microbatch")
    if conf.microbatch > MOST_ITEMS:
        raise UserError(f"invalid value {conf.microbatch} for microbatch: expected at most {MOST_ITEMS:,}")
    _one_of(conf.data.kind, ("tensor", "image", "text"), "data.kind")
    _one_of(conf.data.result, ("array", "labels"), "data.result")
    _one_of(conf.weights_unused, ("refuse", "ignore"), "weights_unused")
    _one_of(conf.profile.outside, ("refuse", "analytic"), "profile.outside")
    _one_of(conf.schedule.objective, ("period", "latency", "period_under_latency"), "schedule.objective")
    if not 0 < conf.wire.max_error < float("inf"):
        raise UserError(f"invalid value {conf.wire.max_error} for wire.max_error: expected a number greater than 0")
    _between(conf.contingency, 0, 1, "contingency")
    _one_of(conf.runtime.prepack, PREPACK, "runtime.prepack")
    _at_least(conf.runtime.num_buffers_in, 1, "runtime.num_buffers_in")
    _at_least(conf.runtime.num_buffers_out, 1, "runtime.num_buffers_out")
    imports_of(conf.runtime)
    return conf


def _check_keys(value: object, key: str) -> None:
    """Raises UserError for a key that `+KEY=VALUE` added, and nothing reads."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_keys(inner, f"{key}.{name}")
    if not is_dataclass(value):
        return
    known = {item.name for item in fields(value)}
    for name, inner in vars(value).items():
        path = f"{key}.{name}".lstrip(".")
        if name not in known:
            raise UserError(f"{path}: no such key: the keys here are {choices(known, name)}")
        _check_keys(inner, path)


def imports_of(conf: RuntimeConf) -> tuple[str, ...]:
    """`runtime.import`: the modules that register the model's own operators.

    Raises:
        UserError: it is not a list of module names.
    """
    value = getattr(conf, "import")
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and is_module_name(name) for name in names):
        raise UserError(f"invalid value {value!r} for runtime.import: expected a list of modules, such as [my_ops]")
    return tuple(names)


def model_of(conf: ModelConf) -> ModelSpec:
    """Raises UserError where the model option lacks something or gives an impossible value."""
    if "_target_" not in conf.build:
        raise UserError("model.build._target_ is missing: name the function or class that returns the nn.Module")
    if not conf.inputs:
        raise UserError(
            f"model.inputs: the model {conf.name!r} names no inputs: give each one's shape (without the batch "
            "dimension) and dtype, such as model.inputs='{input_ids: {shape: [128], dtype: int64}}'"
        )
    if not isinstance(conf.inputs, dict):
        raise UserError(
            f"invalid value {conf.inputs!r} for model.inputs: expected a mapping from names to shape and dtype"
        )
    inputs = []
    for name, value in conf.inputs.items():
        key = f"model.inputs.{name}"
        if not str(name).isidentifier():
            raise UserError(f"invalid value {name!r} for {key}: expected the name of an argument of forward()")
        item = decode(InputConf, value, where=key)
        _one_of(item.dtype, tuple(DTYPE_BYTES), f"{key}.dtype")
        if item.fill is not None:
            _one_of(item.fill, ("normal", "uniform", "ids", "mask", "zeros", "ones"), f"{key}.fill")
        if any(extent < 1 for extent in item.shape):
            raise UserError(f"invalid value {list(item.shape)} for {key}.shape: expected every extent to be 1 or more")
        if item.high is not None:
            _at_least(item.high, 1, f"{key}.high")
        inputs.append(InputSpec(name=name, shape=tuple(item.shape), dtype=item.dtype, fill=item.fill, high=item.high))
    if conf.output is None:
        outputs: tuple[str, ...] = ()
    elif isinstance(conf.output, list):
        outputs = tuple(str(item) for item in conf.output)
    else:
        outputs = (str(conf.output),)
    return ModelSpec(name=conf.name, build=conf.build, inputs=tuple(inputs), outputs=outputs)


def with_pixels(spec: ModelSpec, data: DataConf) -> ModelSpec:
    """The model with its image input as bytes, where `data.pixels` says so.

    Raises:
        UserError: the value is unknown, or the model takes no image.
    """
    _one_of(data.pixels, ("float32", "uint8"), "data.pixels")
    if data.pixels == "float32":
        return spec
    image = spec.inputs[0]
    if data.kind != "image" or len(image.shape) != 3 or image.dtype != "float32":
        raise UserError("data.pixels: uint8 is for data=image or imagenet and a model whose first input is an image")
    if len(data.mean) != image.shape[0] or len(data.std) != image.shape[0] or min(data.std) <= 0:
        raise UserError(
            f"invalid values {data.mean}, {data.std} for data.mean, data.std: expected one per channel, std over 0"
        )
    return replace(spec, inputs=(replace(image, dtype="uint8", fill="ids", high=256), *spec.inputs[1:]))


def cluster_of(conf: Conf) -> Cluster:
    """Raises UserError where a host names an unknown device, a figure has no unit we know, or there is no host."""
    if conf.hosts.count is not None:
        _at_least(conf.hosts.count, 1, "hosts.count")
    devices = {name: _device(name, item) for name, item in conf.devices.items()}
    hosts = [host for name, item in conf.hosts.members.items() for host in _hosts(name, item, devices)]
    names = [host.name for host in hosts]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"hosts.members: the name {repeated[0]!r} is used twice: give each host its own")
    data_host = conf.hosts.data_host
    if data_host is not None:
        _one_of(data_host, tuple(names), "hosts.data_host")
        hosts.sort(key=lambda host: host.name != data_host)
    if conf.hosts.count is not None:
        if conf.hosts.count > len(hosts):
            raise UserError(f"invalid value {conf.hosts.count} for hosts.count: expected 1 to {len(hosts)} here")
        hosts = hosts[: conf.hosts.count]
    if not hosts:
        raise UserError("hosts.members: no host is listed: choose hosts=local or list some")
    network = conf.hosts.network
    _one_of(network.model, ("host", "pairwise", "shared"), "hosts.network.model")
    medium = None
    if network.model == "shared":
        if network.bandwidth is None:
            raise UserError("hosts.network.bandwidth is missing: a shared medium needs its rate, such as 50Mbps")
        medium = parse_rate(network.bandwidth, "hosts.network.bandwidth")
    used = {host.device for host in hosts}
    return Cluster(
        devices=tuple(device for device in devices.values() if device.name in used),
        hosts=tuple(hosts),
        network=network.model,
        latency_s=parse_time(network.latency, "hosts.network.latency"),
        medium_bytes_per_s=medium,
        pairs=_pairs(network, tuple(names)),
    )


def _device(name: str, conf: DeviceConf) -> Device:
    key = f"devices.{name}"
    _one_of(conf.execution, ("cpu", "cuda"), f"{key}.execution")
    _one_of(conf.dtype, ("float32",), f"{key}.dtype")
    if conf.dtype not in conf.peak:
        raise UserError(f"{key}.peak: no figure for the dtype {conf.dtype}: give {key}.peak.{conf.dtype}=100GFLOPS")
    if not 0 < conf.efficiency <= 1:
        raise UserError(
            f"invalid value {conf.efficiency} for {key}.efficiency: expected a number greater than 0, at most 1"
        )
    if not 0 <= conf.threads <= 4096:
        raise UserError(f"invalid value {conf.threads} for {key}.threads: expected 0 (all cores) to 4096")
    _over_zero(conf.cpu_share, f"{key}.cpu_share")
    return Device(
        name=name,
        execution=conf.execution,
        dtype=conf.dtype,
        peak_flops_per_s=parse_flops(conf.peak[conf.dtype], f"{key}.peak.{conf.dtype}") * conf.efficiency,
        memory_bytes_per_s=parse_rate(conf.memory_bandwidth, f"{key}.memory_bandwidth"),
        memory_bytes=_positive_bytes(conf.memory, f"{key}.memory"),
        runtime_bytes=parse_bytes(conf.runtime_memory, f"{key}.runtime_memory"),
        launch_s=parse_time(conf.launch_overhead, f"{key}.launch_overhead"),
        network_bytes_per_s=parse_rate(conf.network, f"{key}.network"),
        threads=conf.threads,
        cpu_share=conf.cpu_share,
        profile_of=conf.profile_of or name,
        python=_python(conf.python, f"{key}.python"),
    )


def _python(text: str, key: str) -> tuple[int, ...] | None:
    if not text:
        return None
    if not all(part.isdecimal() for part in text.split(".")):
        raise UserError(f'invalid value {text!r} for {key}: expected a version such as "3.11", or "" for unknown')
    return tuple(int(part) for part in text.split("."))


def _hosts(name: str, conf: HostConf, devices: Mapping[str, Device]) -> list[ClusterHost]:
    key = f"hosts.members.{name}"
    if conf.device not in devices:
        raise UserError(
            f"{key}.device: no device kind {conf.device!r}: the kinds here are {choices(devices, conf.device)}; "
            "choose the devices option that has the kinds of this hosts option"
        )
    if conf.count < 0:
        raise UserError(f"invalid value {conf.count} for {key}.count: expected 0 or more")
    _between(conf.port, 1, 65535 - max(conf.count - 1, 0), f"{key}.port")
    _over_zero(conf.cpu_share, f"{key}.cpu_share")
    if conf.threads is not None:
        _between(conf.threads, 0, 4096, f"{key}.threads")
    device = devices[conf.device]
    bandwidth = device.network_bytes_per_s
    if conf.bandwidth is not None:
        bandwidth = parse_rate(conf.bandwidth, f"{key}.bandwidth")
    memory = device.memory_bytes if conf.memory is None else _positive_bytes(conf.memory, f"{key}.memory")
    return [
        ClusterHost(
            name=name if conf.count == 1 else f"{name}-{index + 1}",
            device=conf.device,
            address=_address(conf.address, index),
            port=conf.port + (index if _loopback(conf.address) else 0),
            bandwidth_bytes_per_s=bandwidth,
            memory_bytes=memory,
            threads=device.threads if conf.threads is None else conf.threads,
            cpu_share=device.cpu_share if conf.cpu_share is None else conf.cpu_share,
        )
        for index in range(conf.count)
    ]


def _loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("localhost", "::1")


def _address(address: str, index: int) -> str:
    if index == 0 or _loopback(address):
        return address
    head, _, tail = address.rpartition(".")
    if head and tail.isdigit():
        return f"{head}.{int(tail) + index}"
    return f"{address}-{index + 1}"


def _pairs(network: NetworkConf, names: tuple[str, ...]) -> Mapping[tuple[str, str], tuple[float, float]]:
    if network.pairs is None:
        return {}
    if network.model != "pairwise" or not isinstance(network.pairs, dict):
        raise UserError("hosts.network.pairs: takes a mapping from `a->b` to rates, with hosts.network.model=pairwise")
    result = {}
    default_latency = parse_time(network.latency, "hosts.network.latency")
    for pair, value in network.pairs.items():
        key = f"hosts.network.pairs.{pair}"
        source, arrow, destination = (part.strip() for part in pair.partition("->"))
        if not arrow:
            raise UserError(f"{key}: expected a key of the form SOURCE->DESTINATION")
        _one_of(source, names, key)
        _one_of(destination, names, key)
        figures = value if isinstance(value, dict) else {"bandwidth": value}
        if "bandwidth" not in figures or set(figures) - {"bandwidth", "latency"}:
            raise UserError(f"invalid value {value!r} for {key}: expected a rate, or {{bandwidth: ..., latency: ...}}")
        latency = figures.get("latency")
        result[source, destination] = (
            parse_rate(figures["bandwidth"], f"{key}.bandwidth"),
            default_latency if latency is None else parse_time(latency, f"{key}.latency"),
        )
    return result


def _positive_bytes(value: object, key: str) -> int:
    size = parse_bytes(value, key)
    if size <= 0:
        raise UserError(f"invalid value {value!r} for {key}: expected more than 0 bytes")
    return size


def _over_zero(value: float | None, key: str) -> None:
    if value is not None and not value > 0:
        raise UserError(f"invalid value {value} for {key}: expected a number greater than 0")


def _at_least(value: int, least: int, key: str) -> None:
    if value < least:
        raise UserError(f"invalid value {value} for {key}: expected {least} or more")


def _between(value: int, least: int, most: int, key: str) -> None:
    if not least <= value <= most:
        raise UserError(f"invalid value {value} for {key}: expected {least} to {most}")


def _one_of(value: object, allowed: tuple[str, ...], key: str) -> None:
    if value not in allowed:
        raise UserError(f"invalid value {value!r} for {key}: expected one of {choices(allowed, value)}")
