"""The devices, hosts and network options as frozen objects in SI units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgecompile.config.schema import Conf, DeviceConf, HostConf, HostsConf, NetworkConf
from edgecompile.config.value_checks import at_least, between, member, named, over_zero, positive_bytes, seconds
from edgecompile.contract.closed_sets import AUTO, WEIGHT_ONLY, Execution, NetworkModel, Precision, words_of
from edgecompile.contract.errors import UserError, choices, invalid_value
from edgecompile.contract.quantities import parse_bytes, parse_flops, parse_rate

__all__ = ["Cluster", "ClusterHost", "Device", "cluster_of"]

MOST_CORES = 4096


@dataclass(frozen=True, kw_only=True)
class Device:
    name: str
    execution: Execution
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
    precision: Precision = Precision.FP32
    auto: bool = False
    """Whether its precision is still to be chosen."""
    speedups: Mapping[Precision, float] = field(default_factory=dict)
    """How many times as fast as in `dtype` products are by the data sheet, in the precisions that ranks have kernels
    for on this kind."""
    python: tuple[int, ...] | None = None
    """The newest Python that its vendor's system ships; None: unknown."""

    @property
    def product_speedup(self) -> float:
        """In its precision."""
        return self.speedups.get(self.precision, 1.0)

    def gains_in(self, precision: Precision) -> bool:
        """Whether ranks have kernels for it on this kind by which products, or reading weights, take less time."""
        return self.speedups.get(precision, 1.0) > 1.0 or (precision in WEIGHT_ONLY and precision in self.speedups)


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
    network: NetworkModel
    latency_s: float
    medium_bytes_per_s: float | None
    pairs: Mapping[tuple[str, str], tuple[float, float]]
    """Bandwidth and latency of the ordered pairs that differ from their interfaces' rates."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """That its devices compute in."""
        return tuple(dict.fromkeys(device.precision for device in self.devices))

    def device_of(self, host: ClusterHost) -> Device:
        return next(device for device in self.devices if device.name == host.device)


def cluster_of(conf: Conf) -> Cluster:
    """Raises UserError where a host names an unknown device, a figure has no unit we know, or there is no host."""
    if conf.hosts.count is not None:
        at_least(conf.hosts.count, 1, "hosts.count")
    devices = {name: _device(name, item, conf.precision.format) for name, item in conf.devices.items()}
    hosts = _chosen(conf.hosts, devices)
    network = conf.hosts.network
    model = member(NetworkModel, network.model, "hosts.network.model")
    medium = None
    if model is NetworkModel.SHARED:
        if network.bandwidth is None:
            raise UserError("hosts.network.bandwidth is missing: a shared medium needs its rate, such as 50Mbps")
        medium = parse_rate(network.bandwidth, "hosts.network.bandwidth")
    used = {host.device for host in hosts}
    names = [host.name for name, item in conf.hosts.members.items() for host in _hosts(name, item, devices)]
    return Cluster(
        devices=tuple(device for device in devices.values() if device.name in used),
        hosts=tuple(hosts),
        network=model,
        latency_s=seconds(network.latency, "hosts.network.latency"),
        medium_bytes_per_s=medium,
        pairs=_pairs(network, names),
    )


def _chosen(conf: HostsConf, devices: Mapping[str, Device]) -> list[ClusterHost]:
    """The hosts that `hosts.count` leaves, the data host first."""
    hosts = [host for name, item in conf.members.items() for host in _hosts(name, item, devices)]
    names = [host.name for host in hosts]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"the name {repeated[0]!r} is used twice", key="hosts.members", fix="give each host its own")
    if conf.data_host is not None:
        named(conf.data_host, names, "hosts.data_host")
        hosts.sort(key=lambda host: host.name != conf.data_host)
    if conf.count is not None:
        if conf.count > len(hosts) > 0:
            raise invalid_value(conf.count, "hosts.count", f"1 to {len(hosts)}, the hosts that are listed")
        hosts = hosts[: conf.count]
    if not hosts:
        raise UserError("no host is listed", key="hosts.members", fix="choose hosts=local or list some")
    return hosts


def _device(name: str, conf: DeviceConf, usual: str) -> Device:
    key = f"devices.{name}"
    named(conf.dtype, ("float32",), f"{key}.dtype")
    if conf.dtype not in conf.peak:
        raise UserError(f"{key}.peak: no figure for the dtype {conf.dtype}: give {key}.peak.{conf.dtype}=100GFLOPS")
    over_zero(conf.efficiency, f"{key}.efficiency", 1)
    asked = conf.precision or usual
    auto = asked == AUTO
    where = f"{key}.precision" if conf.precision else "precision"
    precision = Precision.FP32 if auto else _precision(asked, where)
    return Device(
        name=name,
        execution=member(Execution, conf.execution, f"{key}.execution"),
        dtype=conf.dtype,
        peak_flops_per_s=parse_flops(conf.peak[conf.dtype], f"{key}.peak.{conf.dtype}") * conf.efficiency,
        memory_bytes_per_s=parse_rate(conf.memory_bandwidth, f"{key}.memory_bandwidth"),
        memory_bytes=positive_bytes(conf.memory, f"{key}.memory"),
        runtime_bytes=parse_bytes(conf.runtime_memory, f"{key}.runtime_memory"),
        launch_s=seconds(conf.launch_overhead, f"{key}.launch_overhead"),
        network_bytes_per_s=parse_rate(conf.network, f"{key}.network"),
        threads=between(conf.threads, 0, MOST_CORES, f"{key}.threads"),
        cpu_share=_share(conf.cpu_share, f"{key}.cpu_share"),
        profile_of=conf.profile_of or name,
        precision=precision,
        auto=auto,
        speedups=_speedups(conf, key),
        python=_python(conf.python, f"{key}.python"),
    )


_PEAKS: Mapping[Precision, str] = {Precision.BF16: "bfloat16", Precision.FP16: "float16", Precision.INT8: "int8"}


def _precision(word: str, key: str) -> Precision:
    if word not in words_of(Precision):
        raise invalid_value(word, key, f"{choices(words_of(Precision))} or {AUTO}")
    return Precision(word)


def _speedups(conf: DeviceConf, key: str) -> Mapping[Precision, float]:
    """Of the precisions that ranks have kernels for on this kind, and the device names a peak of."""
    known = [member(Precision, name, f"{key}.precisions") for name in conf.precisions]
    usual = parse_flops(conf.peak[conf.dtype], f"{key}.peak.{conf.dtype}")
    peaks = {precision: _PEAKS.get(precision, conf.dtype) for precision in known}
    return {
        precision: parse_flops(conf.peak[dtype], f"{key}.peak.{dtype}") / usual
        for precision, dtype in peaks.items()
        if dtype in conf.peak
    }


def _share(value: float | None, key: str) -> float | None:
    return None if value is None else over_zero(value, key, MOST_CORES)


def _python(text: str, key: str) -> tuple[int, ...] | None:
    if not text:
        return None
    if not all(part.isdecimal() for part in text.split(".")):
        raise invalid_value(text, key, 'a version such as "3.11", or "" for unknown')
    return tuple(int(part) for part in text.split("."))


def _hosts(name: str, conf: HostConf, devices: Mapping[str, Device]) -> list[ClusterHost]:
    key = f"hosts.members.{name}"
    if conf.device not in devices:
        raise UserError(
            f"no device kind {conf.device!r}",
            key=f"{key}.device",
            fix=f"the kinds here are {choices(devices, conf.device)}; choose the devices option that has the kinds of "
            "this hosts option",
        )
    at_least(conf.count, 0, f"{key}.count")
    between(conf.port, 1, 65535 - max(conf.count - 1, 0), f"{key}.port")
    share = _share(conf.cpu_share, f"{key}.cpu_share")
    if conf.threads is not None:
        between(conf.threads, 0, MOST_CORES, f"{key}.threads")
    device = devices[conf.device]
    bandwidth = device.network_bytes_per_s
    if conf.bandwidth is not None:
        bandwidth = parse_rate(conf.bandwidth, f"{key}.bandwidth")
    memory = device.memory_bytes if conf.memory is None else positive_bytes(conf.memory, f"{key}.memory")
    return [
        ClusterHost(
            name=name if conf.count == 1 else f"{name}-{index + 1}",
            device=conf.device,
            address=_address(conf.address, index),
            port=conf.port + (index if _loopback(conf.address) else 0),
            bandwidth_bytes_per_s=bandwidth,
            memory_bytes=memory,
            threads=device.threads if conf.threads is None else conf.threads,
            cpu_share=device.cpu_share if share is None else share,
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


def _pairs(network: NetworkConf, names: Sequence[str]) -> Mapping[tuple[str, str], tuple[float, float]]:
    if network.pairs is None:
        return {}
    if network.model != "pairwise" or not isinstance(network.pairs, dict):
        raise UserError(
            "takes a mapping from `a->b` to rates, with hosts.network.model=pairwise", key="hosts.network.pairs"
        )
    result = {}
    default_latency = seconds(network.latency, "hosts.network.latency")
    for pair, value in network.pairs.items():
        key = f"hosts.network.pairs.{pair}"
        source, arrow, destination = (part.strip() for part in str(pair).partition("->"))
        if not arrow:
            raise UserError("the key must read SOURCE->DESTINATION", key=key)
        named(source, names, key)
        named(destination, names, key)
        figures = value if isinstance(value, dict) else {"bandwidth": value}
        if "bandwidth" not in figures or set(figures) - {"bandwidth", "latency"}:
            raise invalid_value(value, key, "a rate, or {bandwidth: ..., latency: ...}")
        latency = figures.get("latency")
        result[source, destination] = (
            parse_rate(figures["bandwidth"], f"{key}.bandwidth"),
            default_latency if latency is None else seconds(latency, f"{key}.latency"),
        )
    return result
