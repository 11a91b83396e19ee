"""Doctor checks: Python, torch and its features. Imports torch only inside the checks."""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Iterator

from edgecompile.contract.errors import UserError
from edgecompile.terminal.libraries import import_libraries
from edgelaunch.common.identity import Endpoint, address_is_here
from edgelaunch.doctor.findings import FAILS, CheckContext, Finding, first_line, has_torch

__all__ = [
    "check_gloo",
    "check_gpu",
    "check_libraries",
    "check_python",
    "check_store",
    "check_torch",
    "check_torchscript",
]

STORE_S = 10.0


def check_python(context: CheckContext) -> Iterator[Finding]:
    yield Finding(check="Python", found=sys.version.split()[0])


def check_torch(context: CheckContext) -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = "install the torch that fits this device into the same environment"
        yield Finding(check="torch", found=f"cannot be imported: {error}", verdict=FAILS, fix=fix)
        return
    yield Finding(check="torch", found=str(torch.__version__))


def check_torchscript(context: CheckContext) -> Iterator[Finding]:
    wanted = sorted({stage.artifact for stage in context.stages()})
    if not wanted or not has_torch():
        return
    import torch

    from edgecompile.execution import torchscript

    for artifact in wanted:
        try:
            if artifact == "torchscript":
                memory = io.BytesIO()
                torchscript.save(torchscript.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), memory)
                memory.seek(0)
                torchscript.load(memory)(torch.zeros(1, 1))
            else:
                _load_newer(context)
        except UserError as error:
            yield Finding.of_error(artifact, error)
            continue
        except Exception as error:  # whatever this build of torch lacks
            fix = "install a torch that has it, or compile with the other artifact= (torchscript, pt2)"
            yield Finding(check=artifact, found=f"does not work here: {first_line(error)}", verdict=FAILS, fix=fix)
            continue
        yield Finding(check=artifact, found="works")


def check_libraries(context: CheckContext) -> Iterator[Finding]:
    """Modules that register operators of the model's own."""
    if not has_torch():
        return
    for name in context.plan.runtime.imports:
        try:
            import_libraries([name])
        except UserError as error:
            yield Finding.of_error("libraries", error)
            continue
        yield Finding(check="libraries", found=f"{name} can be imported")


def _load_newer(context: CheckContext) -> None:
    """pt2 shards that are here, and that a newer torch wrote: trying is the only way to know.

    Raises:
        UserError: one cannot be loaded.
    """
    import torch

    from edgelaunch.pipeline.pt2 import exported_by, is_newer, unreadable_pt2

    for stage in context.stages():
        path = context.folder / stage.shard
        if stage.artifact == "pt2" and is_newer(exported_by(path) or "", str(torch.__version__)):
            try:
                torch.export.load(path)
            except Exception as error:  # of many kinds
                raise unreadable_pt2(path, error) from None


def check_gpu(context: CheckContext) -> Iterator[Finding]:
    if context.endpoint is None or not has_torch():
        return
    (rank,) = context.ranks
    if context.plan.hosts[rank].execution != "cuda" or context.plan.stage_of_rank(rank) is None:
        return
    import torch

    if torch.cuda.is_available():
        yield Finding(check="GPU", found=torch.cuda.get_device_name(0))
        return
    fix = "install a torch with CUDA for this board, or compile with execution: cpu for its device"
    yield Finding(check="GPU", found="planned for cuda, but torch finds no GPU", verdict=FAILS, fix=fix)


def check_gloo(context: CheckContext) -> Iterator[Finding]:
    if len(context.plan.hosts) < 2 or not has_torch():
        return
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_gloo_available()):
        fix = "install a torch that was built with USE_DISTRIBUTED=1 and USE_GLOO=1"
        yield Finding(check="gloo", found="this torch has no gloo", verdict=FAILS, fix=fix)
        return
    try:
        address = context.own_address()
        dist.ProcessGroupGloo.create_device(hostname=address)
    except (UserError, RuntimeError) as error:
        fix = "give the host the address of an interface of this machine, or --master ADDRESS:PORT"
        yield Finding(check="gloo", found=first_line(error), verdict=FAILS, fix=fix)
        return
    yield Finding(check="gloo", found=f"binds {address}")


def check_store(context: CheckContext) -> Iterator[Finding]:
    """What the ranks meet at, served and reached by the functions of a run, at a port of its own."""
    if len(context.plan.hosts) < 2 or 0 not in context.ranks or not has_torch():
        return
    address = "127.0.0.1" if context.endpoint is None else context.endpoint.address
    if (context.endpoint is not None and context.endpoint.agent) or not address_is_here(address):
        return  # torchrun serves it, or the port's check has said what is wrong
    try:
        _meet(address)
    except UserError as error:
        yield Finding.of_error("store", error)
        return
    except (OSError, RuntimeError, ImportError) as error:
        fix = "install another torch: 2.6 or later, built with USE_DISTRIBUTED=1"
        yield Finding(check="store", found=f"does not work here: {first_line(error)}", verdict=FAILS, fix=fix)
        return
    yield Finding(check="store", found="can be served and reached")


def _meet(address: str) -> None:
    from edgelaunch.store.meeting import Board

    family, _, _, _, (numeric, _, *scope) = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((numeric, 0, *scope))
        listener.listen()
        port, descriptor = listener.getsockname()[1], listener.detach()
    endpoint = Endpoint(address=address, port=port, listen_fd=descriptor)
    server = Board(endpoint, serve=True, timeout_s=STORE_S)
    client = Board(endpoint, serve=False, timeout_s=STORE_S)
    client.put("doctor", "was here")
    assert client.get("doctor") == "was here"
    del server  # until here it serves
