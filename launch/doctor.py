"""What a rank needs before a run, one function a check. Imports torch only inside the checks that are about it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import shutil
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompile.plan import Plan, Stage, UserError
from edgelaunch.failures import rank_name
from edgelaunch.identity import Endpoint, address_is_here, is_loopback, resolve
from edgelaunch.local import available_cores
from edgelaunch.secret import find_secret
from edgelaunch.shards import check_file, check_shard

if TYPE_CHECKING:
    from edgelaunch.hosts_option import Figures

__all__ = ["FAILS", "NOTE", "OK", "Finding", "examine", "judge_links"]

OK, NOTE, FAILS = "ok", "note", "FAILS"
REACH_S = 3.0
AHEAD_S = 60.0
ROOM_BYTES = 200 << 20
TIGHT = 1.1
SLOWER = 0.9
"""A link that reaches this share of what was planned is as good."""
SIOCGIFADDR = 0x8915
MEMORY_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Of control groups, version 2 and 1: the limit and what is used of it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    check: str
    found: str
    verdict: str = OK
    """`ok`, `note`: a run is possible, or `FAILS`."""
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """The rank, or on a machine that runs them all the ranks, that are looked at."""

    plan: Plan
    folder: Path
    ranks: tuple[int, ...]
    endpoint: Endpoint | None
    """Where rank 0 is met; None where all ranks are on this machine."""
    secret_file: str | None = None

    def stages(self) -> list[Stage]:
        """All that these ranks may have to run, for the loss of another host too."""
        plan = self.plan
        every = [stage for stages in (plan.stages, *(item.stages for item in plan.contingencies)) for stage in stages]
        return [stage for stage in every if stage.rank in self.ranks]


def examine(
    plan: Plan, folder: Path, ranks: tuple[int, ...], endpoint: Endpoint | None, secret_file: str | None = None
) -> Iterator[Finding]:
    """Looks at everything that can be looked at without the other ranks, in the order in which a run needs it."""
    patient = Patient(plan=plan, folder=folder, ranks=ranks, endpoint=endpoint, secret_file=secret_file)
    for check in CHECKS:
        yield from check(patient)


# --- software --------------------------------------------------------------------------------------------------------


def _python(patient: Patient) -> Iterator[Finding]:
    yield Finding(check="Python", found=sys.version.split()[0])


def _torch(patient: Patient) -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = "install the torch that fits this device into the same environment"
        yield Finding(check="torch", found=f"cannot be imported: {error}", verdict=FAILS, fix=fix)
        return
    yield Finding(check="torch", found=str(torch.__version__))


def _torchscript(patient: Patient) -> Iterator[Finding]:
    wanted = sorted({stage.artifact for stage in patient.stages()})
    if not wanted or not _has_torch():
        return
    import torch

    for artifact in wanted:
        try:
            if artifact == "torchscript":
                traced = torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1))  # type: ignore[no-untyped-call]
                memory = io.BytesIO()
                torch.jit.save(traced, memory)
                memory.seek(0)
                torch.jit.load(memory)(torch.zeros(1, 1))  # type: ignore[no-untyped-call]
            else:
                assert callable(torch.export.load)
        except Exception as error:  # whatever this build of torch lacks
            fix = "install a torch that has it, or compile with the other artifact= (torchscript, pt2)"
            yield Finding(check=artifact, found=f"does not work here: {_first_line(error)}", verdict=FAILS, fix=fix)
            continue
        yield Finding(check=artifact, found="works")


def _gpu(patient: Patient) -> Iterator[Finding]:
    if patient.endpoint is None or not _has_torch():
        return
    (rank,) = patient.ranks
    if patient.plan.hosts[rank].execution != "cuda" or patient.plan.stage_of_rank(rank) is None:
        return
    import torch

    if torch.cuda.is_available():
        yield Finding(check="GPU", found=torch.cuda.get_device_name(0))
        return
    fix = "install a torch with CUDA for this board, or compile with execution: cpu for its device"
    yield Finding(check="GPU", found="planned for cuda, and torch finds none", verdict=FAILS, fix=fix)


def _gloo(patient: Patient) -> Iterator[Finding]:
    if len(patient.plan.hosts) < 2 or not _has_torch():
        return
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_gloo_available()):
        fix = "install a torch that was built with USE_DISTRIBUTED=1 and USE_GLOO=1"
        yield Finding(check="gloo", found="this torch has none", verdict=FAILS, fix=fix)
        return
    try:
        address = _own_address(patient)
        dist.ProcessGroupGloo.create_device(hostname=address)
    except (UserError, RuntimeError) as error:
        fix = "give the host the address of an interface of this machine, or --master ADDRESS:PORT"
        yield Finding(check="gloo", found=_first_line(error), verdict=FAILS, fix=fix)
        return
    yield Finding(check="gloo", found=f"binds {address}")


# --- network ---------------------------------------------------------------------------------------------------------


def _address(patient: Patient) -> Iterator[Finding]:
    if patient.endpoint is None:
        return
    plan, (rank,) = patient.plan, patient.ranks
    for host in plan.hosts:
        if resolve(host.address) is None:
            fix = f"enter it in /etc/hosts, or compile with hosts.members.{host.name}.address=an IP address"
            what = f"{rank_name(plan, host.rank)}: {host.address} has no address"
            verdict = FAILS if host.rank in (0, rank) else NOTE
            yield Finding(check="name", found=what, verdict=verdict, fix=fix)
    own = plan.hosts[rank]
    if address_is_here(own.address):
        yield Finding(check="address", found=f"{own.address} is this machine")
    else:
        fix = "fine where --rank and --master say so on purpose; else compile with this machine's address"
        yield Finding(check="address", found=f"{own.address} is not this machine", verdict=NOTE, fix=fix)


def _interface(patient: Patient) -> Iterator[Finding]:
    """A network card that has agreed on a lower rate than the plan counts on: a bad cable, or an old switch."""
    if patient.endpoint is None:
        return
    planned = patient.plan.hosts[patient.ranks[0]].limits.bandwidth_bytes_per_s
    try:
        address = _own_address(patient)
    except UserError:
        return
    name = _interface_of(address)
    if name is None or is_loopback(address):
        return
    try:
        rate = int(Path(f"/sys/class/net/{name}/speed").read_text()) * 1e6 / 8
    except (OSError, ValueError):
        rate = -1.0
    if rate <= 0:
        yield Finding(check="interface", found=f"{name}, of unknown rate: edgelaunch links measures it")
    elif planned is not None and rate < SLOWER * planned:
        fix = "look at cable and switch, or compile with this bandwidth for the host"
        found = f"{name} runs at {_rate(rate)}, the plan counts on {_rate(planned)}"
        yield Finding(check="interface", found=found, verdict=FAILS, fix=fix)
    else:
        yield Finding(check="interface", found=f"{name}, {_rate(rate)}")


def _port(patient: Patient) -> Iterator[Finding]:
    if patient.endpoint is None or len(patient.plan.hosts) < 2:
        return
    endpoint = patient.endpoint
    where = f"{endpoint.address}:{endpoint.port}"
    yield (_port_to_listen if 0 in patient.ranks else _port_to_reach)(endpoint, where)


def _port_to_listen(endpoint: Endpoint, where: str) -> Finding:
    try:
        family, _, _, _, target = socket.getaddrinfo(endpoint.address, endpoint.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        fix = "stop what listens there, or give every rank --master ADDRESS:PORT with an address of this machine"
        found = f"{where} is taken" if taken else f"{where} cannot be listened at: {error.strerror}"
        return Finding(check="port", found=found, verdict=FAILS, fix=fix)
    return Finding(check="port", found=f"{where} is free")


def _port_to_reach(endpoint: Endpoint, where: str) -> Finding:
    begin = time.monotonic()
    try:
        socket.create_connection((endpoint.address, endpoint.port), timeout=REACH_S).close()
    except ConnectionRefusedError:
        return Finding(check="rank 0", found=f"its machine answers, nobody listens at {where} yet", verdict=NOTE,
                       fix="start rank 0; nothing is wrong if you are about to")  # fmt: skip
    except OSError as error:
        fix = "look at rank 0's power, cable, address and firewall (TCP, that port and all above 1023)"
        found = f"no way to {where}: {error.strerror or error}"
        return Finding(check="rank 0", found=found, verdict=FAILS, fix=fix)
    return Finding(check="rank 0", found=f"listens at {where}, {(time.monotonic() - begin) * 1e3:.1f} ms away")


def _secret(patient: Patient) -> Iterator[Finding]:
    if patient.endpoint is None:
        return
    try:
        secret = find_secret(patient.plan, patient.endpoint.address, patient.secret_file, os.environ)
    except UserError as error:
        yield _of_error("secret", error)
        return
    yield Finding(check="secret", found="is there" if secret is not None else "not needed on one machine")


def _clock(patient: Patient) -> Iterator[Finding]:
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    newest = max((path.stat().st_mtime for path in patient.folder.glob("*.yaml")), default=now)
    if newest > now + AHEAD_S:
        fix = "set it (timedatectl set-ntp true): runs do not depend on it, dates in logs do"
        found = f"{shown}, and the plan is {_span(newest - now)} younger"
        yield Finding(check="clock", found=found, verdict=NOTE, fix=fix)
        return
    yield Finding(check="clock", found=shown)


# --- the machine -----------------------------------------------------------------------------------------------------


def _cores(patient: Patient) -> Iterator[Finding]:
    cores = available_cores()
    wanted = sum(patient.plan.hosts[stage.rank].threads for stage in patient.plan.stages if stage.rank in patient.ranks)
    if patient.endpoint is not None and wanted > cores:
        fix = "the stage will be slower than planned: compile with the device's threads= as here"
        yield Finding(check="cores", found=f"{cores}, the plan counts on {wanted}", verdict=NOTE, fix=fix)
    else:
        yield Finding(check="cores", found=str(cores))


def _memory(patient: Patient) -> Iterator[Finding]:
    most: dict[int, int] = {}
    for stage in patient.stages():
        most[stage.rank] = max(most.get(stage.rank, 0), stage.predicted.memory_bytes)
    wanted, free = sum(most.values()), _free_bytes()
    if not wanted or free is None:
        return
    found = f"{_size(free)} free, the plan takes {_size(wanted)}"
    if free < wanted:
        fix = "stop what else runs here, or compile with less: hosts.members.NAME.memory=, a smaller microbatch"
        yield Finding(check="memory", found=found, verdict=FAILS, fix=fix)
    elif free < TIGHT * wanted:
        fix = "tight: the kernel may end a rank when something else starts here"
        yield Finding(check="memory", found=found, verdict=NOTE, fix=fix)
    else:
        yield Finding(check="memory", found=found)


def _disk(patient: Patient) -> Iterator[Finding]:
    free = shutil.disk_usage(patient.folder).free
    if free < ROOM_BYTES:
        fix = "make room: results and temporary files need some"
        verdict = FAILS if 0 in patient.ranks else NOTE
        yield Finding(check="disk", found=f"{_size(free)} free", verdict=verdict, fix=fix)
    else:
        yield Finding(check="disk", found=f"{_size(free)} free")


def _shards(patient: Patient) -> Iterator[Finding]:
    stages = {stage.sha256: stage for stage in patient.stages()}
    size = 0
    for stage in stages.values():
        try:
            check_shard(patient.plan, stage, patient.folder)
            size += (patient.folder / stage.shard).stat().st_size
        except UserError as error:
            if patient.endpoint is None or 0 in patient.ranks:
                yield _of_error("shard", error)
            else:
                yield Finding(check="shard", found=str(error).partition(": copy")[0], verdict=NOTE,
                              fix="none is needed: it is fetched from rank 0 when the run begins")  # fmt: skip
            return
    if stages:
        plural = "s" if len(stages) > 1 else ""
        yield Finding(check=f"shard{plural}", found=f"{len(stages)}, {_size(size)}, as the plan has them")
    else:
        yield Finding(check="shard", found="none is needed: this rank runs no stage")


def _files(patient: Patient) -> Iterator[Finding]:
    """What the data host alone reads."""
    if 0 not in patient.ranks:
        return
    golden, text = patient.plan.golden, patient.plan.data.text
    fix = "copy it again from where the plan was compiled"
    wanted = [(golden.file, golden.sha256, "the golden items' file")]
    if golden.reference is not None and golden.reference_sha256 is not None:
        wanted.append((golden.reference, golden.reference_sha256, "the unsplit model"))
    if text is not None and text.tokenizer is not None and text.sha256 is not None:
        wanted.append((text.tokenizer, text.sha256, "the tokenizer"))
    for name, sha256, what in wanted:
        try:
            check_file(patient.folder / name, sha256, what, fix)
        except UserError as error:
            yield _of_error("files", error)
            return
    yield Finding(check="files", found=", ".join(name for name, _, _ in wanted))


# --- with the other ranks --------------------------------------------------------------------------------------------


def judge_links(plan: Plan, found: Mapping[tuple[int, int], Figures]) -> Iterator[Finding]:
    """Measured rates beside the plan's."""
    for (source, destination), figures in sorted(found.items()):
        names = f"{plan.hosts[source].name} -> {plan.hosts[destination].name}"
        planned = plan.link(source, destination)
        measured = figures.bandwidth_bytes_per_s
        if planned is None or measured >= SLOWER * planned.bandwidth_bytes_per_s:
            yield Finding(check="link", found=f"{names}: {_rate(measured)}")
            continue
        fix = "look at cable, switch or Wi-Fi; or plan with what there is: edgelaunch links PLAN --output hosts.yaml"
        told = f"{names}: {_rate(measured)}, the plan counts on {_rate(planned.bandwidth_bytes_per_s)}"
        yield Finding(check="link", found=told, verdict=FAILS, fix=fix)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def _own_address(patient: Patient) -> str:
    """Raises UserError where no way leads to rank 0."""
    if patient.endpoint is None:
        return "127.0.0.1"
    from edgelaunch.transport import local_address

    return local_address(patient.plan.hosts[patient.ranks[0]].address, patient.endpoint.address)


def _interface_of(address: str) -> str | None:
    """The interface that has this IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):
                if socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)[20:24]) == address:
                    return name
    return None


def _free_bytes() -> int | None:
    """What the kernel could give to a new process, within this process's own limit."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    for most, used in MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            found.append(max(0, int(Path(most).read_text()) - int(Path(used).read_text())))
    return min(found) if found else None


def _of_error(check: str, error: UserError) -> Finding:
    found, _, fix = str(error).rpartition(": ")
    return Finding(check=check, found=found or str(error), verdict=FAILS, fix=fix)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"


def _rate(bytes_per_s: float) -> str:
    bits = bytes_per_s * 8
    return f"{bits / 1e9:.3g} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:.3g} Mbit/s"


def _span(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds > 2 * 86400 else f"{seconds / 60:.0f} minutes"


CHECKS = (_python, _torch, _torchscript, _gpu, _gloo, _address, _interface, _port, _secret, _clock, _cores, _memory,
          _disk, _shards, _files)  # fmt: skip
"""In the order in which a run needs what they look at."""
