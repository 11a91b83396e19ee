"""Finds the profile that holds for a kind of device, and whether it is of what the plan will run there."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from edgecompile.config.cluster_spec import Cluster, Device
from edgecompile.config.request import ProfileRequest
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError, choices
from edgecompile.frontend.chain.units import Chain
from edgecompile.profile.profile_file import DeviceProfile, profile_path, read_profile

__all__ = ["NotMeasured", "check_fit", "cores_of", "given_path", "measure_command", "measured_precisions", "path_of",
           "sharing", "threads_of", "threads_told", "usual_path"]  # fmt: skip

_RUNTIME_CORES = 0.003
"""What a rank's heartbeats and looks into the store take of a core, all the time: 0.002, on the data host 0.004."""


class NotMeasured(UserError):
    """Of these units, or of messages of these sizes (with profile.outside=refuse)."""


def cores_of(cluster: Cluster, device: Device, machine_cores: int) -> float:
    """Cores that a stage on such a host has to itself: of the share, or its part of a machine with several ranks."""
    if device.cpu_share is not None:
        return max(device.cpu_share - _RUNTIME_CORES, device.cpu_share / 2)
    return max(1.0, machine_cores / sharing(cluster, device))


def threads_of(cluster: Cluster, device: Device, machine_cores: int) -> int:
    """Intra-op threads of a rank on this kind of device, as the launcher will choose them.

    Raises:
        UserError: hosts of this kind have different numbers.
    """
    ranks = sharing(cluster, device)
    found = set()
    for host in cluster.hosts:
        if host.device == device.name:
            found.add(host.threads or max(1, machine_cores // ranks))
    if len(found) > 1:
        raise UserError(
            f"devices.{device.name}: its hosts have {choices(found)} threads, and a measured profile holds for one "
            "number: give them device kinds of their own (profile_of)"
        )
    return found.pop()


def sharing(cluster: Cluster, device: Device) -> int:
    """Ranks on the machine of a host of this kind: hosts with the same address."""
    addresses = [host.address for host in cluster.hosts]
    return max(addresses.count(host.address) for host in cluster.hosts if host.device == device.name)


def given_path(device: Device, request: ProfileRequest) -> Path | None:
    """That of `profile.files`; None: it names none for this kind."""
    given = request.files.get(device.name) or request.files.get(device.profile_of)
    return Path(given) if given else None


def usual_path(device: Device, request: ProfileRequest) -> Path:
    """Where edgeprofile writes it."""
    return profile_path(request.folder, device.profile_of, request.model, device.precision.value)


def path_of(device: Device, request: ProfileRequest) -> Path:
    """
    Raises:
        UserError: there is no file.
    """
    path = (request.measured or {}).get((device.name, device.precision))
    path = path or given_path(device, request) or usual_path(device, request)
    if not path.exists():
        raise UserError(
            f"{path}: no profile of {request.model} on {device.name}: run `{measure_command(device, request)}` on that "
            "device and copy its file here, or use profile=analytic"
        )
    return path


def measured_precisions(device: Device, request: ProfileRequest) -> tuple[Precision, ...]:
    """Those that this kind has profiles of, float32 first, which every model needs; of a file that was given, its own.

    Raises:
        UserError: that file cannot be read.
    """
    if given_path(device, request) is not None:
        return (Precision(read_profile(path_of(device, request)).precision),)
    others = [item for item in Precision if item is not Precision.FP32]
    paths = {item: usual_path(replace(device, precision=item), request) for item in others}
    return (Precision.FP32, *(item for item, path in paths.items() if path.exists()))


def measure_command(device: Device, request: ProfileRequest) -> str:
    """What the user types; the model's own words where it is not an option of ours."""
    option = files("edgecompile.conf") / "model" / f"{request.model}.yaml"
    model = f"model={request.model}" if option.is_file() else "model=... (as here)"
    precision = "" if device.precision is Precision.FP32 else f" precision={device.precision.value}"
    return f"edgeprofile {model} profile.device={device.profile_of}{precision}"


def check_fit(
    found: DeviceProfile,
    path: Path,
    device: Device,
    cluster: Cluster,
    request: ProfileRequest,
    fingerprint: str,
    chain: Chain,
) -> None:
    """Raises UserError where the profile is not of these units, or not of how a rank on this kind will run them."""
    again = f"measure again with `{measure_command(device, request)}`"
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
            f"{path}: measured with {threads_told(found.threads)}, but a rank on {device.name} will have "
            f"{threads_told(threads)}: set devices.{device.name}.threads={found.threads}, or {again} with the hosts "
            "that will run it"
        )
    for host in cluster.hosts:
        if host.device == device.name and host.cpu_share != device.cpu_share:
            raise UserError(
                f"hosts.members: {host.name} has a cpu_share of {host.cpu_share}, its device {device.name} one of "
                f"{device.cpu_share}: with profile=measured make it a kind of its own (profile_of: {device.profile_of})"
            )


def threads_told(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")
