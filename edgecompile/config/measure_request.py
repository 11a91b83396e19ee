"""The request of edgeprofile: its part of the config, fully parsed and checked before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass

from edgecompile.config.cluster_spec import Cluster, Device, cluster_of
from edgecompile.config.generation_request import generation_of
from edgecompile.config.model_spec import ModelSpec
from edgecompile.config.request import CaptureRequest, ModelRequest, capture_of, check_values, model_request
from edgecompile.config.schema import Conf
from edgecompile.config.value_checks import at_least, positive_bytes, seconds
from edgecompile.contract.closed_sets import Prepack
from edgecompile.contract.errors import UserError, choices, invalid_value

__all__ = ["MeasureRequest", "measure_of"]

_USUAL_PARTS = (16, 3)
"""Of the largest extent, beside itself and the least: most texts are far shorter than the longest. Interpolated between
these, mean messages of MiniLM come within 3 % of what they take; an eighth in place of the sixteenth: within 6 %."""


@dataclass(frozen=True, kw_only=True)
class MeasureRequest:
    model: ModelRequest
    capture: CaptureRequest
    cluster: Cluster
    device: Device
    """What this machine is."""
    folder: str
    """Where the profile is written."""
    microbatches: tuple[int, ...]
    """Ascending."""
    dim: str | None
    """The model's one dimension of which several extents are measured; None: it has none, or more than one."""
    extents: tuple[int, ...]
    """Of it, ascending."""
    named_extents: bool
    """Whether the user named them."""
    rounds: int
    time_limit_s: float
    max_bytes: int
    busy_cores: int
    prepack: Prepack
    keep: tuple[str, ...]
    """`precision.keep`; the precision is the device's."""
    candidates: int
    """`generation.candidates`; 0: the model generates no text."""


def measure_of(conf: Conf) -> MeasureRequest:
    """
    Raises:
        UserError: a value is not allowed, or no device is the one to measure; names the key.
    """
    check_values(conf)
    cluster, given = cluster_of(conf), conf.profile
    model = model_request(conf, cluster)
    dim, extents = _extents(given.extents, model.spec)
    generation = generation_of(conf)
    return MeasureRequest(
        model=model,
        capture=capture_of(conf),
        cluster=cluster,
        device=_device(cluster, given.device),
        folder=given.folder,
        microbatches=_microbatches(given.microbatches),
        dim=dim,
        extents=extents,
        named_extents=bool(given.extents),
        rounds=at_least(given.rounds, 1, "profile.rounds"),
        time_limit_s=seconds(given.time_limit, "profile.time_limit"),
        max_bytes=positive_bytes(given.max_memory, "profile.max_memory"),
        busy_cores=at_least(given.busy_cores, 0, "profile.busy_cores"),
        prepack=Prepack(conf.runtime.prepack),
        keep=tuple(conf.precision.keep),
        candidates=0 if generation is None else generation.candidates,
    )


def _device(cluster: Cluster, wanted: str | None) -> Device:
    devices = {device.name: device for device in cluster.devices}
    name = wanted or (next(iter(devices)) if len(devices) == 1 else None)
    if name is None:
        raise UserError(f"profile.device is missing: say which device this machine is: {choices(devices)}")
    if name not in devices:
        raise UserError(
            f"no host has the device {name!r}",
            key="profile.device",
            fix=f"the devices here are {choices(devices, name)}",
        )
    if devices[name].profile_of != name:
        problem = f"{name} takes its times from {devices[name].profile_of}"
        raise UserError(problem, key="profile.device", fix="measure that one")
    return devices[name]


def _microbatches(given: list[int]) -> tuple[int, ...]:
    sizes = tuple(sorted(set(given)))
    if not sizes or sizes[0] < 1:
        raise invalid_value(given, "profile.microbatches", "a list of sizes of 1 or more")
    return sizes


def _extents(given: list[int], spec: ModelSpec) -> tuple[str | None, tuple[int, ...]]:
    """The dimension, and those of its extents that are measured: the largest always, which memory is planned for."""
    key = "profile.extents"
    if len(spec.dims) != 1:
        if not given:
            return None, ()
        problem = f"{spec.name!r} has several dimensions" if spec.dims else f"items of {spec.name!r} have one shape"
        raise UserError(problem, key=key, fix="leave it out: each microbatch is measured at the largest extents")
    ((name, dim),) = spec.dims.items()
    if not given:
        between = (round(dim.max / part) for part in _USUAL_PARTS)
        return name, tuple(sorted({dim.min, dim.max, *(extent for extent in between if extent >= dim.min)}))
    if min(given) < dim.min or max(given) > dim.max:
        raise invalid_value(given, key, f"extents of {name}, {dim.min} to {dim.max}")
    return name, tuple(sorted({*given, dim.max}))
