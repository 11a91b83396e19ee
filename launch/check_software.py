"""Checks of `edgelaunch doctor`: Python, torch and what it can do here. Imports torch only inside them."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

from edgecompile.libraries import import_libraries
from edgecompile.plan import UserError
from edgelaunch.findings import FAILS, Finding, Patient, first_line, has_torch

__all__ = ["check_gloo", "check_gpu", "check_libraries", "check_python", "check_torch", "check_torchscript"]


def check_python(patient: Patient) -> Iterator[Finding]:
    yield Finding(check="Python", found=sys.version.split()[0])


def check_torch(patient: Patient) -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = "install the torch that fits this device into the same environment"
        yield Finding(check="torch", found=f"cannot be imported: {error}", verdict=FAILS, fix=fix)
        return
    yield Finding(check="torch", found=str(torch.__version__))


def check_torchscript(patient: Patient) -> Iterator[Finding]:
    wanted = sorted({stage.artifact for stage in patient.stages()})
    if not wanted or not has_torch():
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
            yield Finding(check=artifact, found=f"does not work here: {first_line(error)}", verdict=FAILS, fix=fix)
            continue
        yield Finding(check=artifact, found="works")


def check_libraries(patient: Patient) -> Iterator[Finding]:
    """Modules that register operators of the model's own."""
    if not has_torch():
        return
    for name in patient.plan.runtime.imports:
        try:
            import_libraries([name])
        except UserError as error:
            yield Finding.of_error("libraries", error)
            continue
        yield Finding(check="libraries", found=f"{name} can be imported")


def check_gpu(patient: Patient) -> Iterator[Finding]:
    if patient.endpoint is None or not has_torch():
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


def check_gloo(patient: Patient) -> Iterator[Finding]:
    if len(patient.plan.hosts) < 2 or not has_torch():
        return
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_gloo_available()):
        fix = "install a torch that was built with USE_DISTRIBUTED=1 and USE_GLOO=1"
        yield Finding(check="gloo", found="this torch has none", verdict=FAILS, fix=fix)
        return
    try:
        address = patient.own_address()
        dist.ProcessGroupGloo.create_device(hostname=address)
    except (UserError, RuntimeError) as error:
        fix = "give the host the address of an interface of this machine, or --master ADDRESS:PORT"
        yield Finding(check="gloo", found=first_line(error), verdict=FAILS, fix=fix)
        return
    yield Finding(check="gloo", found=f"binds {address}")
