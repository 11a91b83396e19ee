"""The profile file of one model on one device: written by edgeprofile, read by profile=measured. Imports no torch.

Seconds, CPU seconds, bytes. Lists a unit have one entry for each of the model's units, in order.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from edgecompile.contract.closed_sets import Cache
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import replacing
from edgecompile.contract.files.user_files import check_ours
from edgecompile.contract.yaml_decode import OMITTED, decode, load_yaml

__all__ = [
    "VERSIONS",
    "CheckEntry",
    "Cost",
    "DeviceProfile",
    "MachineInfo",
    "Messages",
    "MicrobatchProfile",
    "Rates",
    "Versions",
    "WireCost",
    "check_profile_place",
    "profile_path",
    "read_profile",
    "write_profile",
]

VERSIONS = {False: 1, True: 2}
"""By whether several extents were measured: a profile of fixed shapes is read by the first edgecompile too."""
_MAX_BYTES = 256 << 20
_DIGITS = 5
HEADER = "# written by edgeprofile; read by edgecompile profile=measured. Seconds, bytes, operations a second.\n"


@dataclass(frozen=True, kw_only=True)
class MachineInfo:
    """The machine that was measured."""

    name: str
    processor: str
    cores: int
    memory_bytes: int
    architecture: str
    system: str


@dataclass(frozen=True, kw_only=True)
class Versions:
    edgecompile: str
    torch: str
    python: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """`fixed` a call and `each` a byte or an element: seconds on the wall, and of the cores."""

    fixed_s: float = 0.0
    each_s: float = 0.0
    fixed_cpu_s: float = 0.0
    each_cpu_s: float = 0.0

    def seconds(self, count: int, cores: float) -> float:
        """On so many cores of the machine that was measured."""
        return max(self.fixed_s + self.each_s * count, self.cpu_seconds(count) / cores)

    def cpu_seconds(self, count: int) -> float:
        return self.fixed_cpu_s + self.each_cpu_s * count


@dataclass(frozen=True, kw_only=True)
class Rates:
    matrix_flops_per_s: float
    memory_bytes_per_s: float
    """Read and written by a copy."""
    pack: Cost
    """Copying a result into the buffer that is sent, a byte."""


@dataclass(frozen=True, kw_only=True)
class Messages:
    """What gloo over TCP takes of the cores, a message and a byte, beside what the link takes."""

    send: Cost
    receive: Cost
    item_cpu_s: float = field(default=0.0, metadata={OMITTED: True})
    """An item at the data host: its arrays into a message, and its result out of one."""
    text: TextCost | None = field(default=None, metadata={OMITTED: True})
    """None: not measured."""


@dataclass(frozen=True, kw_only=True)
class TextCost:
    """Tokenising a text at the data host."""

    fixed_cpu_s: float
    token_cpu_s: float


@dataclass(frozen=True, kw_only=True)
class WireCost:
    """One wire format, a call and an element."""

    format: str
    scale: str
    """`item` or `channel`, as the config's wire.scale."""
    clipping: bool
    """As the config's wire.clipping; true also for formats that never clip."""
    encode: Cost
    decode: Cost


@dataclass(frozen=True, kw_only=True)
class CheckEntry:
    """Units that were measured as one stage, and what the sum of their times says."""

    units: tuple[int, int]
    measured_s: float
    predicted_s: float


@dataclass(frozen=True, kw_only=True)
class MicrobatchProfile:
    microbatch: int
    rounds: int
    disturbed: float
    """The share of samples in which something else had the cores."""
    call_s: float
    """What each stage takes beside its units."""
    correction: float
    """What all units were multiplied by, so that sums are right for ranges that were not measured as such."""
    checks: tuple[CheckEntry, ...]
    wall_s: tuple[float, ...]
    """The median of each unit."""
    wall_q1_s: tuple[float, ...]
    wall_q3_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    activation_bytes: tuple[int, ...] | None
    """Peak of live activations while each unit runs; null: not to be had on this system."""
    extents: dict[str, int] = field(default_factory=dict)
    """Of the one dimension of which several extents were measured; empty: items had the largest."""
    context: int = field(default=0, metadata={OMITTED: True})
    """Tokens that each slot of a language model held before the message."""
    context_s: tuple[float, ...] = field(default=(), metadata={OMITTED: True})
    """What each unit takes longer for each token more that a slot holds; none: not measured."""

    @property
    def extent(self) -> int | None:
        """None: the largest."""
        return next(iter(self.extents.values()), None)


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    version: int
    device: str
    model: str
    fingerprint: str
    """Of the captured units and their sizes an item."""
    execution: str
    dtype: str
    threads: int
    busy_cores: int
    date: str
    machine: MachineInfo
    versions: Versions
    rates: Rates
    runtime_bytes: int
    """What a rank takes before it holds weights and activations."""
    messages: Messages
    wires: tuple[WireCost, ...]
    units: tuple[str, ...]
    """The main operator of each."""
    microbatches: tuple[MicrobatchProfile, ...]
    """In ascending order. Where extents were measured, the least microbatch at all of them, ascending, and each
    further one at the same; of a language model, or at the first of these."""
    prepack: str = "never"
    """`runtime.prepack` of the stages that were measured."""
    precision: str = "fp32"
    """Of their products with weights, but for those of the modules of `keep`."""
    keep: tuple[str, ...] = ()
    cache: str = field(default=Cache.FP32.value, metadata={OMITTED: True})
    """What attention was measured over: see closed_sets.Cache."""
    candidates: Cost | None = field(default=None, metadata={OMITTED: True})
    """Of a language model: finding the most likely tokens of scores, a message and a row."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The microbatches, each once."""
        return tuple(dict.fromkeys(item.microbatch for item in self.microbatches))

    @property
    def extents(self) -> tuple[int, ...]:
        """At which each microbatch was measured; none: at the largest alone."""
        return tuple(dict.fromkeys(item.extent for item in self.microbatches if item.extent is not None))

    def extents_of(self, size: int) -> tuple[int, ...]:
        """At which this microbatch was measured."""
        return tuple(item.extent for item in self.microbatches if item.microbatch == size and item.extent is not None)

    @property
    def dim(self) -> str | None:
        """Whose extents they are."""
        return next(iter(self.microbatches[0].extents), None)


def profile_path(folder: str, device: str, model: str, precision: str = "fp32") -> Path:
    """`folder/device-model.yaml`, or `folder/device-model-int8.yaml`, with nothing that a path could stumble over."""
    name = f"{device}-{model}" if precision == "fp32" else f"{device}-{model}-{precision}"
    return Path(folder) / (re.sub(r"[^\w.+-]", "_", name) + ".yaml")


def read_profile(path: Path) -> DeviceProfile:
    """
    Raises:
        UserError: the file is missing, no YAML, of another version, or breaks a rule; says which and where.
    """
    document = load_yaml(path, what="profile", max_bytes=_MAX_BYTES, hint="edgeprofile writes one")
    version = document.get("version") if isinstance(document, dict) else None
    if version not in VERSIONS.values() or isinstance(version, bool):
        raise UserError(
            f"{path}: version is {version!r}, this edgecompile reads profiles of the versions 1 and 2: "
            "measure again with edgeprofile"
        )
    profile = decode(DeviceProfile, document, where=str(path))
    _check(profile, str(path))
    return profile


def _check(profile: DeviceProfile, where: str) -> None:
    count = len(profile.units)
    _check_sizes(profile, where)
    if profile.threads < 1 or profile.machine.cores < 1:
        raise UserError(f"{where}: threads and machine.cores must be 1 or more")
    for index, item in enumerate(profile.microbatches):
        for key in ("wall_s", "wall_q1_s", "wall_q3_s", "cpu_s", "activation_bytes", "context_s"):
            values = getattr(item, key)
            if values is None or (key == "context_s" and not values):
                continue
            if len(values) != count:
                raise UserError(
                    f"{where}: microbatches.{index}.{key} has {len(values)} entries: expected {count}, one per unit"
                )
            if min(values, default=0) < 0:
                raise UserError(
                    f"{where}: invalid value {min(values)} for microbatches.{index}.{key}: expected 0 or more"
                )
        if not any(value > 0 for value in item.wall_s):
            raise UserError(f"{where}: microbatches.{index}.wall_s: all are 0: measure again with edgeprofile")


def _check_sizes(profile: DeviceProfile, where: str) -> None:
    found = [(item.microbatch, *item.extents.values()) for item in profile.microbatches]
    shown = found if any(len(size) > 1 for size in found) else [size[0] for size in found]
    if not found or found != sorted(set(found)) or min(min(size) for size in found) < 1:
        raise UserError(f"{where}: invalid value {shown} for microbatches: expected one size or more, ascending")
    dims = {tuple(item.extents) for item in profile.microbatches}
    rows = [profile.extents_of(size) for size in profile.sizes]
    fewer = any(item.context for item in profile.microbatches)
    alike = all(row == (before[: len(row)] if fewer else before) for before, row in pairwise(rows))
    if len(dims) > 1 or max(map(len, dims)) > 1 or not alike:
        raise UserError(
            f"{where}: invalid value {shown} for microbatches: expected each at the same extents of one dimension"
            f"{', or the first of them' if fewer else ''}"
        )


def check_profile_place(path: Path) -> None:
    """Before the work: raises UserError where a file that is not a profile has the profile's name."""
    check_ours(
        path, rf"{HEADER[:24]}|^version: .*^device: .*^fingerprint: ", "profile", "choose another profile.folder"
    )


def write_profile(profile: DeviceProfile, path: Path) -> None:
    """Writes to a temporary file beside `path`, then renames: a crash leaves the old profile or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(profile_text(profile), encoding="utf-8")


def profile_text(profile: DeviceProfile) -> str:
    """The profile as YAML, figures to five digits."""
    parts = []
    for key, value in _rounded(_plain(profile)).items():
        flow = None if isinstance(value, (list, dict)) else False
        parts.append(yaml.safe_dump({key: value}, sort_keys=False, default_flow_style=flow, width=120))
    return HEADER + "".join(parts)


def _plain(profile: DeviceProfile) -> dict[str, Any]:
    document = asdict(profile)
    if profile.candidates is None:
        del document["candidates"]
    for item in document["microbatches"]:
        for key in ("extents", "context", "context_s"):
            if not item[key]:
                del item[key]
    return document


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
