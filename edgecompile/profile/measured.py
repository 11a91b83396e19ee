"""profile=measured: unit times and sizes at the plan's microbatch, from files that edgeprofile wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompile.config.cluster_spec import Cluster, Device
from edgecompile.config.methods import OutsideProfile, ProfileMethod
from edgecompile.config.request import ProfileRequest
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError, choices
from edgecompile.frontend.chain.fingerprint import chain_fingerprint
from edgecompile.frontend.chain.kept_state import seen_context, state_of, usual_context
from edgecompile.frontend.chain.sized_work import SizedWork
from edgecompile.frontend.chain.units import Chain
from edgecompile.profile.analytic import CandidateCost, ItemCost, Profile, analytic_profile, roofline_s
from edgecompile.profile.profile_file import DeviceProfile, MicrobatchProfile, profile_path, read_profile
from edgecompile.profile.size_grid import SizeGrid
from edgecompile.profile.wire_costs import MeasuredWires

__all__ = ["NotMeasured", "SizedMessages", "cores_of", "make_profile", "measured_precisions", "measured_profile",
           "threads_of"]  # fmt: skip

_RUNTIME_CORES = 0.003
"""What a rank's heartbeats and looks into the store take of a core, all the time: 0.002, on the data host 0.004."""


class NotMeasured(UserError):
    """Of these units, or of messages of these sizes (with profile.outside=refuse)."""


@dataclass(frozen=True, kw_only=True)
class SizedMessages:
    """What the units of a chain whose sizes vary have to do."""

    work: SizedWork
    shares: Mapping[tuple[int, int], float]
    """Of the messages with so many items of such an extent; they sum up to 1."""
    largest: tuple[tuple[int, int], ...]
    """Those that may take most memory."""
    contexts: Mapping[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    """As Mix has them."""


def make_profile(
    chain: Chain, cluster: Cluster, request: ProfileRequest, messages: SizedMessages | None = None
) -> Profile:
    """Seconds of each unit on each kind of device, as `profile` says, of a message of the largest sizes.

    Args:
        messages: where sizes vary. What was measured at several extents is of their mean (`Profile.of_mix`).

    Raises:
        UserError: profile=measured, and a kind has no profile that holds for it.
    """
    if request.method is ProfileMethod.analytic:
        return analytic_profile(chain, cluster.devices, request.keep)
    return measured_profile(chain, cluster, request, messages)


def measured_profile(
    chain: Chain, cluster: Cluster, request: ProfileRequest, messages: SizedMessages | None = None
) -> Profile:
    """
    Args:
        messages: as for make_profile.

    Raises:
        UserError: a profile is missing, of another model, or not of what the device says it is; or a size is outside of
            the measured ones and profile.outside is refuse.
    """
    fingerprint = chain_fingerprint(chain, request.microbatch)
    unit_s, runtime, wires, items, notes, of_mix = {}, {}, {}, {}, [], set()
    candidates: dict[str, CandidateCost] = {}
    activations = [0] * len(chain.units)
    for device in cluster.devices:
        path = _path(device, request)
        found = read_profile(path)
        _check(found, path, device, cluster, request, fingerprint, chain)
        cores = cores_of(cluster, device, found.machine.cores)
        if messages is not None and found.dim == messages.work.dim:
            figures = _of_mix(found, request, chain, device, cores, messages)
            of_mix.add(device.name)
        else:
            figures = _of_largest(found, request, chain, device, cores)
        if figures.outside and request.outside is OutsideProfile.REFUSE:
            raise NotMeasured(
                f"{path}: {figures.outside} outside the measured ones ({_sizes(found)}): measure it with "
                f"{_command(device, request)} {figures.option}=[...], or take profile.outside=analytic"
            )
        unit_s[device.name] = figures.unit_s
        activations = [max(most, round(value)) for most, value in zip(activations, figures.live, strict=True)]
        runtime[device.name] = found.runtime_bytes or device.runtime_bytes
        wires[device.name] = MeasuredWires(found, figures.call_s, cores)
        items[device.name] = _item_cost(found, cores)
        if found.candidates is not None:
            fixed_s, one_s = (found.candidates.seconds(rows, cores) for rows in (0, 1))
            candidates[device.name] = CandidateCost(fixed_s=fixed_s, row_s=one_s - fixed_s)
        notes.extend(_notes(found, path, device, figures.note))
    return Profile(
        unit_s=unit_s,
        wires=wires,
        runtime_bytes=runtime,
        activation_bytes=tuple(activations),
        items=items,
        candidates=candidates,
        notes=tuple(notes),
        of_mix=frozenset(of_mix),
    )


@dataclass(frozen=True, kw_only=True)
class _Figures:
    """What one profile says of the messages of a plan."""

    unit_s: tuple[float, ...]
    live: Sequence[float]
    """Bytes of activations, of the largest message."""
    call_s: float
    outside: str
    """What of the sizes was not measured, as the subject of a sentence and its verb; empty: nothing."""
    option: str
    """That edgeprofile takes for it."""
    note: str


def _of_largest(found: DeviceProfile, request: ProfileRequest, chain: Chain, device: Device, cores: float) -> _Figures:
    """Of a message of the largest sizes."""
    at = _At(found, request.microbatch, chain, device)
    counted = tuple(unit.activation_bytes for unit in chain.units)
    wall_s, cpu_s = at.per_unit(lambda item: item.wall_s), at.per_unit(lambda item: item.cpu_s)
    note = ""
    if at.outside:
        note = f"microbatch {request.microbatch} was not measured: scaled by the data sheet from the nearest"
    elif request.microbatch not in found.sizes:
        note = f"microbatch {request.microbatch} lies between"
    if chain.captured.sampling is not None:
        note += ("; " if note else "") + "smaller sizes were not measured: scaled by the data sheet"
    return _Figures(
        unit_s=tuple(max(wall, cpu / cores) for wall, cpu in zip(wall_s, cpu_s, strict=True)),
        live=at.per_unit(lambda item: item.activation_bytes or counted),
        call_s=at.per_unit(lambda item: (item.call_s,) * len(chain.units))[0],
        outside=f"microbatch {request.microbatch} is" if at.outside else "",
        option="profile.microbatches",
        note=note,
    )


def _of_mix(
    found: DeviceProfile,
    request: ProfileRequest,
    chain: Chain,
    device: Device,
    cores: float,
    messages: SizedMessages,
) -> _Figures:
    """Of the mean message: the mean of what each takes."""
    grid = SizeGrid(found, messages.work, device)
    unit_s, call_s = np.zeros(len(chain.units)), 0.0
    for size, share in messages.shares.items():
        wall_s, cpu_s = grid.at(*size, lambda item: item.wall_s), grid.at(*size, lambda item: item.cpu_s)
        if contexts := messages.contexts.get(size):
            longer_s = grid.longer_s(*size, _more_seen(chain, contexts))
            ratio = np.maximum(wall_s + longer_s, 0.0) / np.maximum(wall_s, 1e-12)
            wall_s, cpu_s = wall_s * ratio, cpu_s * ratio
        unit_s += share * np.maximum(wall_s, cpu_s / cores)
        call_s += share * float(grid.at(*size, lambda item: (item.call_s,) * len(chain.units))[0])
    live: Sequence[float] = [unit.activation_bytes for unit in chain.units]
    if all(item.activation_bytes is not None for item in found.microbatches):
        each = [grid.at(*size, lambda item: item.activation_bytes or ()) for size in messages.largest]
        live = [float(value) for value in np.maximum.reduce(each)]
    missing = [size for size in messages.shares if not grid.contains(*size)]
    outside, option, note = "", "", ""
    if missing:
        batch, extent = missing[0]
        many = not found.sizes[0] <= batch <= found.sizes[-1]
        option = "profile.microbatches" if many else "profile.extents"
        outside = f"microbatch {batch} is" if many else f"{found.dim} {extent} is"
        share = sum(messages.shares[size] for size in missing)
        note = f"{share:.0%} of the messages lie outside of these sizes: scaled by the data sheet from the nearest"
    elif any(size[0] not in found.sizes or size[1] not in found.extents for size in messages.shares):
        note = "other sizes are interpolated"
    return _Figures(unit_s=tuple(unit_s.tolist()), live=live, call_s=call_s, outside=outside, option=option, note=note)


def _more_seen(chain: Chain, contexts: Sequence[int]) -> NDArray[np.float64]:
    """Tokens that each unit's attention sees beyond those of the usual context, for which units were measured."""
    usual, more = usual_context(chain), np.zeros(len(chain.units))
    for spec in state_of(chain):
        seen = np.mean([seen_context(context, spec.window) for context in contexts])
        more[spec.unit] = float(seen) - seen_context(usual, spec.window)
    return more


def _item_cost(found: DeviceProfile, cores: float) -> ItemCost:
    """Nothing where a core is left for it that the stage does not use."""
    messages, share = found.messages, 0.0 if cores > found.threads else 1 / min(cores, found.machine.cores)
    text = messages.text
    return ItemCost(
        item_s=share * messages.item_cpu_s,
        text_s=0.0 if text is None else share * text.fixed_cpu_s,
        token_s=0.0 if text is None else share * text.token_cpu_s,
    )


def cores_of(cluster: Cluster, device: Device, machine_cores: int) -> float:
    """Cores that a stage on such a host has to itself: of the share, or its part of a machine with several ranks."""
    if device.cpu_share is not None:
        return max(device.cpu_share - _RUNTIME_CORES, device.cpu_share / 2)
    return max(1.0, machine_cores / _sharing(cluster, device))


def threads_of(cluster: Cluster, device: Device, machine_cores: int) -> int:
    """Intra-op threads of a rank on this kind of device, as the launcher will choose them.

    Raises:
        UserError: hosts of this kind have different numbers.
    """
    sharing = _sharing(cluster, device)
    found = set()
    for host in cluster.hosts:
        if host.device == device.name:
            found.add(host.threads or max(1, machine_cores // sharing))
    if len(found) > 1:
        raise UserError(
            f"devices.{device.name}: its hosts have {choices(found)} threads, and a measured profile holds for one "
            "number: give them device kinds of their own (profile_of)"
        )
    return found.pop()


def _sharing(cluster: Cluster, device: Device) -> int:
    """Ranks on the machine of a host of this kind: hosts with the same address."""
    addresses = [host.address for host in cluster.hosts]
    return max(addresses.count(host.address) for host in cluster.hosts if host.device == device.name)


def _path(device: Device, request: ProfileRequest) -> Path:
    given = request.files.get(device.name) or request.files.get(device.profile_of)
    path = Path(given) if given else _usual_path(device, request)
    if not path.exists():
        raise UserError(
            f"{path}: no profile of {request.model} on {device.name}: run `{_command(device, request)}` on that device "
            "and copy its file here, or use profile=analytic"
        )
    return path


def measured_precisions(device: Device, request: ProfileRequest) -> tuple[Precision, ...]:
    """Those that this kind has profiles of, float32 first, which every model needs; of a file that was given, its own.

    Raises:
        UserError: that file cannot be read.
    """
    if request.files.get(device.name) or request.files.get(device.profile_of):
        return (Precision(read_profile(_path(device, request)).precision),)
    others = [item for item in Precision if item is not Precision.FP32]
    paths = {item: _usual_path(replace(device, precision=item), request) for item in others}
    return (Precision.FP32, *(item for item, path in paths.items() if path.exists()))


def _usual_path(device: Device, request: ProfileRequest) -> Path:
    return profile_path(request.folder, device.profile_of, request.model, device.precision.value)


def _command(device: Device, request: ProfileRequest) -> str:
    """What the user types; the model's own words where it is not an option of ours."""
    option = files("edgecompile.conf") / "model" / f"{request.model}.yaml"
    model = f"model={request.model}" if option.is_file() else "model=... (as here)"
    precision = "" if device.precision is Precision.FP32 else f" precision={device.precision.value}"
    return f"edgeprofile {model} profile.device={device.profile_of}{precision}"


def _check(
    found: DeviceProfile,
    path: Path,
    device: Device,
    cluster: Cluster,
    request: ProfileRequest,
    fingerprint: str,
    chain: Chain,
) -> None:
    again = f"measure again with `{_command(device, request)}`"
    if found.fingerprint != fingerprint:
        own, theirs = [unit.op for unit in chain.units], list(found.units)
        differing = [index for index, pair in enumerate(zip(own, theirs, strict=False)) if pair[0] != pair[1]]
        where = f"{len(theirs)} units there, {len(own)} here"
        if differing:
            where += (
                f", the first that differs is unit {differing[0]}: {theirs[differing[0]]} there, {own[differing[0]]}"
            )
        raise NotMeasured(f"{path}: the profile of another {found.model} than this model ({where}): {again}")
    for key, wanted in (("execution", device.execution.value), ("dtype", device.dtype),
                        ("precision", device.precision.value)):  # fmt: skip
        if getattr(found, key) != wanted:
            raise UserError(
                f"{path}: measured with {key} {getattr(found, key)}, but devices.{device.name}.{key} is {wanted}: "
                f"{again}"
            )
    if device.precision is not Precision.FP32 and found.keep != request.keep:
        raise UserError(f"{path}: measured with precision.keep={list(found.keep)}, and the plan is to keep "
                        f"{list(request.keep)}: {again}")  # fmt: skip
    if found.prepack != request.prepack.value:
        raise UserError(
            f"{path}: measured with runtime.prepack={found.prepack}, and the plan is to run with "
            f"{request.prepack.value}: set runtime.prepack={found.prepack}, or {again}"
        )
    threads = threads_of(cluster, device, found.machine.cores)
    if found.threads != threads:
        raise UserError(
            f"{path}: measured with {_threads(found.threads)}, but a rank on {device.name} will have "
            f"{_threads(threads)}: set devices.{device.name}.threads={found.threads}, or {again} with the hosts that "
            "will run it"
        )
    for host in cluster.hosts:
        if host.device == device.name and host.cpu_share != device.cpu_share:
            raise UserError(
                f"hosts.members: {host.name} has a cpu_share of {host.cpu_share}, its device {device.name} one of "
                f"{device.cpu_share}: with profile=measured make it a kind of its own (profile_of: {device.profile_of})"
            )


def _threads(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")


class _At:
    """A profile's figures at one microbatch and the largest extents, between two microbatches on the line between."""

    def __init__(self, found: DeviceProfile, microbatch: int, chain: Chain, device: Device) -> None:
        items = [item for item in found.microbatches if item.extent == (found.extents or (None,))[-1]]
        self._below = max((item for item in items if item.microbatch <= microbatch), default=items[0],
                          key=lambda item: item.microbatch)  # fmt: skip
        self._above = min((item for item in items if item.microbatch >= microbatch), default=items[-1],
                          key=lambda item: item.microbatch)  # fmt: skip
        self.outside = not items[0].microbatch <= microbatch <= items[-1].microbatch
        self._microbatch, self._chain, self._device = microbatch, chain, device

    def per_unit(self, values: Callable[[MicrobatchProfile], Sequence[float]]) -> list[float]:
        """Outside of what was measured: the nearest, scaled by what the data sheet makes of the difference."""
        near, far = self._below, self._above
        if near is far and self.outside:
            factors = self._growth(near.microbatch)
            return [value * factor for value, factor in zip(values(near), factors, strict=True)]
        if near is far:
            return list(values(near))
        part = (self._microbatch - near.microbatch) / (far.microbatch - near.microbatch)
        return [(1 - part) * low + part * high for low, high in zip(values(near), values(far), strict=True)]

    def _growth(self, measured: int) -> list[float]:
        """For each unit its roofline at this microbatch over that at the measured one."""
        factors = []
        for unit in self._chain.units:
            weights = unit.weight_bytes
            scale = measured / self._microbatch
            moved = weights + max(0, unit.moved_bytes - weights) * scale
            then_s = roofline_s(unit.flops * scale, moved, self._device)
            factors.append(roofline_s(unit.flops, unit.moved_bytes, self._device) / then_s)
        return factors


def _sizes(found: DeviceProfile) -> str:
    """For example `1, 8`, or `1, 8 at length 16, 128`."""
    extents = ", ".join(map(str, found.extents))
    return ", ".join(map(str, found.sizes)) + (f" at {found.dim} {extents}" if extents else "")


def _notes(found: DeviceProfile, path: Path, device: Device, of_sizes: str) -> list[str]:
    note = (
        f"times of {device.name}: measured {found.date} on {found.machine.name} ({found.machine.processor}, "
        f"{_threads(found.threads)}), {path.name}, microbatch {_sizes(found)}"
    )
    if device.cpu_share is not None:
        note += f"; {device.cpu_share:g} of {found.machine.cores} cores"
    notes = [f"{note}; {of_sizes}" if of_sizes else note]
    worst = max(item.disturbed for item in found.microbatches)
    if worst > 0.25:
        notes.append(f"{path.name}: other processes used the cores in {worst:.0%} of the samples: measure when idle")
    return notes
