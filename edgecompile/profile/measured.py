"""Unit times and sizes at the plan's microbatch, from files of measured profiles; of other kinds by data sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgecompile.config.cluster_spec import Cluster, Device
from edgecompile.config.methods import OutsideProfile, ProfileMethod
from edgecompile.config.request import ProfileRequest
from edgecompile.frontend.chain.fingerprint import chain_fingerprint
from edgecompile.frontend.chain.kept_state import kept_in, seen_context, state_of, usual_context
from edgecompile.frontend.chain.sized_work import SizedWork
from edgecompile.frontend.chain.units import Chain
from edgecompile.planning.memory import heap_bytes
from edgecompile.profile.analytic import CandidateCost, ItemCost, Profile, analytic_profile, roofline_s
from edgecompile.profile.profile_file import DeviceProfile, MicrobatchProfile, read_profile
from edgecompile.profile.profile_fit import NotMeasured, check_fit, cores_of, measure_command, path_of, threads_told
from edgecompile.profile.size_grid import SizeGrid
from edgecompile.profile.wire_costs import MeasuredWires

__all__ = ["SizedMessages", "make_profile"]


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
    if request.method is ProfileMethod.measured:
        return _measured_profile(chain, cluster, cluster.devices, request, messages)
    known = {device.name for device in cluster.devices if (device.name, device.precision) in (request.measured or {})}
    others = [device for device in cluster.devices if device.name not in known]
    sheets = analytic_profile(chain, others, request.keep)
    if others:
        told = ", ".join(device.name for device in others)
        note = f"times of {told}: by data sheet, within about a factor of 2: edgeprofile on that board measures them"
        sheets = replace(sheets, notes=(note, *sheets.notes))
    if not known:
        return sheets
    measured = [device for device in cluster.devices if device.name in known]
    return _joined(_measured_profile(chain, cluster, measured, request, messages), sheets if others else None)


def _joined(one: Profile, other: Profile | None) -> Profile:
    """Of the kinds of both."""
    if other is None:
        return one
    return Profile(
        unit_s={**one.unit_s, **other.unit_s},
        wires={**one.wires, **other.wires},
        runtime_bytes={**one.runtime_bytes, **other.runtime_bytes},
        activation_bytes=tuple(map(max, one.activation_bytes, other.activation_bytes)),
        items={**one.items, **other.items},
        candidates={**one.candidates, **other.candidates},
        notes=(*one.notes, *other.notes),
        of_mix=one.of_mix | other.of_mix,
    )


def _measured_profile(
    chain: Chain, cluster: Cluster, devices: Sequence[Device], request: ProfileRequest, messages: SizedMessages | None
) -> Profile:
    """
    Args:
        devices: of the cluster's, those to be looked up.
        messages: as for make_profile.

    Raises:
        UserError: a profile is missing, of another model, or not of what the device says it is; or a size is outside of
            the measured ones and profile.outside is refuse.
    """
    fingerprint = chain_fingerprint(chain, request.microbatch)
    unit_s, runtime, wires, items, notes, of_mix = {}, {}, {}, {}, [], set()
    candidates: dict[str, CandidateCost] = {}
    activations = [0] * len(chain.units)
    for device in devices:
        path = path_of(device, request)
        found = read_profile(path)
        check_fit(found, path, device, cluster, request, fingerprint, chain)
        cores = cores_of(cluster, device, found.machine.cores)
        if messages is not None and found.dim == messages.work.dim:
            figures = _of_mix(found, request, chain, device, cores, messages)
            of_mix.add(device.name)
        else:
            figures = _of_largest(found, request, chain, device, cores)
        if figures.outside and request.outside is OutsideProfile.REFUSE:
            raise NotMeasured(
                f"{path}: {figures.outside} outside the measured ones ({_sizes(found)}): measure it with "
                f"{measure_command(device, request)} {figures.option}=[...], or take profile.outside=analytic"
            )
        unit_s[device.name] = figures.unit_s
        activations = [max(most, round(value)) for most, value in zip(activations, figures.live, strict=True)]
        runtime[device.name] = found.runtime_bytes or device.runtime_bytes
        wires[device.name] = MeasuredWires(found, figures.call_s, cores, device.cpu_share is None)
        items[device.name] = _item_cost(found, cores)
        if found.candidates is not None:
            fixed_s, one_s = (found.candidates.seconds(rows, cores) for rows in (0, 1))
            candidates[device.name] = CandidateCost(fixed_s=fixed_s, row_s=one_s - fixed_s)
        notes.extend(_notes(found, path, device, figures.note))
        if found.cache != kept_in(chain).value:
            notes.append(
                f"{path.name}: measured with keys and values in {found.cache}, which the plan keeps in "
                f"{kept_in(chain).value}: attention may take twice or half as long"
            )
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
        live=_counted(chain) if at.outside else at.per_unit(lambda item: item.activation_bytes or counted),
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
        known = [size for size in messages.largest if grid.contains(*size)]
        each = [grid.at(*size, lambda item: item.activation_bytes or ()) for size in known]
        each += [np.array(_counted(chain))] if len(known) < len(messages.largest) else []
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


def _counted(chain: Chain) -> list[int]:
    """What a heap takes of activations, as they are counted of the largest message: where none was measured."""
    return [heap_bytes(unit.activation_bytes) for unit in chain.units]


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
        f"{threads_told(found.threads)}), {path.name}, microbatch {_sizes(found)}"
    )
    if device.cpu_share is not None:
        note += f"; {device.cpu_share:g} of {found.machine.cores} cores"
    notes = [f"{note}; {of_sizes}" if of_sizes else note]
    worst = max(item.disturbed for item in found.microbatches)
    if worst > 0.25:
        notes.append(f"{path.name}: other processes used the cores in {worst:.0%} of the samples: measure when idle")
    return notes
