"""What a machine does not give: files, memory, threads; and an address that nobody else can reach."""

from __future__ import annotations

import errno
import os
import resource
import sys
from dataclasses import replace

import pytest
from launch_harness import Running
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.common import identity
from edgelaunch.common.addresses import read_address
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.common.identity import Endpoint, check_reachable, find_endpoint, loopback_trap
from edgelaunch.doctor.findings import FAILS
from edgelaunch.doctor.rank_checks import examine
from edgelaunch.process import limits
from edgelaunch.process.limits import check_limits, files_needed, local_shortage, memory_needed


def limited(written: Written, limit: str, *words: str) -> Running:
    command = f'{limit}; exec "$@"'
    return Running([written.path, *words], program=["bash", "-c", command, "-", sys.executable, "-m", "edgelaunch"])


@pytest.mark.parametrize("words", [("--local",), ("--rank", "1", "--master", "127.0.0.1:29500")])
@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        ("ulimit -n 24", ("may open 24 files and sockets", "may need 48", "ulimit -n 1024", "LimitNOFILE=")),
        ("ulimit -v 500000", ("may have 512 MB of address space", "needs about 8", "ulimit -v unlimited")),
    ],
)
def test_limits_that_are_too_tight_are_said_at_once(
    two_stages: Written, limit: str, parts: tuple[str, ...], words: tuple[str, ...]
) -> None:
    limited(two_stages, limit, *words).wait(20).expect_error(*parts)


def test_the_soft_limit_on_files_is_raised_where_it_may_be(two_stages: Written) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
    try:
        check_limits(two_stages.plan, (0, 1))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == files_needed(two_stages.plan) == 48
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_memory_is_that_of_the_largest_stage_besides_torch(two_stages: Written) -> None:
    small, large = two_stages.plan.stages
    large = replace(large, predicted=replace(large.predicted, memory_bytes=5_000_000_000))
    plan = replace(two_stages.plan, stages=(small, large))
    assert memory_needed(plan, (0,)) == limits.TORCH_BYTES + small.predicted.memory_bytes
    assert memory_needed(plan, (0, 1)) == limits.TORCH_BYTES + 5_000_000_000


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "no more files and sockets"),
        (RuntimeError("socket: Too many open files"), "no more files and sockets"),
        (MemoryError("std::bad_alloc"), "out of memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU is out of memory"),
    ],
)
def test_what_ran_out_is_said_in_one_line(error: BaseException, part: str) -> None:
    failure = Failure.of(1, error)
    assert (failure.kind, failure.trace) == (FailureKind.USER, "")
    assert part in failure.message
    assert ": " in failure.message  # and what to do


def test_other_errors_are_no_shortage() -> None:
    for error in (RuntimeError("shape mismatch"), OSError(errno.ENOENT, "No such file"), ValueError("std::bad_alloc"),
                  BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))):  # fmt: skip
        assert local_shortage(error) is None
        assert Failure.of(1, error).kind is FailureKind.BUG


def test_a_process_without_a_free_file_blames_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_can_open", lambda: False)
    assert "no more files" in str(local_shortage(RuntimeError("failed to connect")))


# --- rank 0 on the loopback -------------------------------------------------------------------------------------------

NAMES = {"pi-0": "127.0.1.1", "pi-1": "192.0.2.11", "pi-2": "192.0.2.12", "v6": "::1", "real": "192.0.2.10"}


@pytest.fixture
def debian(three_stages: Written, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """On pi-0, whose /etc/hosts has its own name as 127.0.1.1."""
    real = identity.resolve
    monkeypatch.setattr(identity, "resolve", lambda address: NAMES.get(address) or real(address))
    return named(three_stages.plan, "pi-0", "pi-1", "pi-2")


def named(plan: Plan, *addresses: str) -> Plan:
    hosts = [replace(host, address=address) for host, address in zip(plan.hosts, addresses, strict=True)]
    return replace(plan, hosts=tuple(hosts))


def test_a_rank_0_that_listens_where_nobody_else_comes_says_so(debian: Plan) -> None:
    with pytest.raises(UserError, match=r"pi-0 is 127.0.1.1 on this machine, where host-1 \(pi-1\) and other machines "
                       r"cannot reach it: remove pi-0 from the line of 127.0.1.1 in /etc/hosts here, or give every "
                       r"rank --master ADDRESS:PORT"):  # fmt: skip
        check_reachable(debian, 0, find_endpoint(debian, None, {}))
    # a copied /etc/hosts: another board looks for rank 0 on itself
    with pytest.raises(UserError, match=r"pi-0 is 127\.0\.1\.1 on this machine"):
        check_reachable(debian, 2, find_endpoint(debian, None, {}))
    for address in ("pi-0:29500", "v6:29500"):
        with pytest.raises(UserError, match="on this machine, where"):
            check_reachable(debian, 0, find_endpoint(debian, read_address("--master", address), {}))
    literal = named(debian, "127.0.0.1", "pi-1", "pi-2")
    with pytest.raises(UserError, match=r"rank 0's address is 127\.0\.0\.1, where host-1"):
        check_reachable(literal, 0, find_endpoint(literal, None, {}))


def test_a_rank_0_on_the_loopback_is_right_where_all_are_there_or_somebody_says_so(debian: Plan) -> None:
    for address in ("127.0.0.1:29500", "localhost:29500", "[::1]:29500", "real:29500"):
        assert loopback_trap(debian, 0, find_endpoint(debian, read_address("--master", address), {})) is None
    together = named(debian, "pi-0", "127.0.0.1", "localhost")
    assert loopback_trap(together, 0, find_endpoint(together, None, {})) is None
    fine = named(debian, "real", "pi-0", "pi-2")
    assert loopback_trap(fine, 1, find_endpoint(fine, None, {})) is None


def test_doctor_finds_it(debian: Plan, three_stages: Written) -> None:
    endpoint = Endpoint(address="pi-0", port=29500)
    found = {item.check: item for item in examine(debian, three_stages.path.parent, (0,), endpoint)}
    assert found["loopback"].verdict == FAILS
    assert "pi-0 is 127.0.1.1 on this machine" in found["loopback"].found
    assert "/etc/hosts" in found["loopback"].fix
    well = examine(three_stages.plan, three_stages.path.parent, (0,), Endpoint(address="127.0.0.1", port=29500))
    assert "loopback" not in {item.check for item in well}
