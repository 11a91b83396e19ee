"""Parts of the runtime by themselves: who a rank is, how messages are laid out, what a full link does."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

import pytest
import torch
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan, TensorSpec
from edgelaunch.common.addresses import read_address
from edgelaunch.common.failures import Abandoned, Failure, FailureBox, FailureKind
from edgelaunch.common.identity import choose_rank, find_endpoint
from edgelaunch.process.cores import available_cores, local_threads
from edgelaunch.transport.links import LocalLink
from edgelaunch.transport.message_buffers import END, Layout, Slot
from edgelaunch.transport.process_group import local_address


def with_addresses(plan: Plan, *addresses: str) -> Plan:
    hosts = [replace(host, address=address) for host, address in zip(plan.hosts, addresses, strict=True)]
    return replace(plan, hosts=tuple(hosts))


# --- who this rank is ---------------------------------------------------------------------------------------------


def test_rank_by_argument_environment_or_machine(two_stages: Written) -> None:
    plan = two_stages.plan
    assert choose_rank(plan, 1, {}) == 1
    assert choose_rank(plan, 1, {"RANK": "1", "WORLD_SIZE": "2"}) == 1
    assert choose_rank(plan, None, {"RANK": "1"}) == 1
    far = with_addresses(plan, "198.51.100.1", "127.0.0.1")
    assert choose_rank(far, None, {}) == 1
    assert choose_rank(far, None, {"RANK": "1"}) == 1
    named = replace(
        far, hosts=(replace(far.hosts[0], name=socket.gethostname()), replace(far.hosts[1], address="198.51.100.2"))
    )
    assert choose_rank(named, None, {}) == 0


@pytest.mark.parametrize(
    ("rank", "environ", "message"),
    [
        (2, {}, "--rank 2 is out of range: the plan has ranks 0 to 1"),
        (None, {"RANK": "5"}, "RANK 5 is out of range"),
        (None, {"RANK": "one"}, "'one' for RANK in the environment"),
        (0, {"RANK": "1"}, "--rank 0 and RANK=1"),
        (None, {"RANK": "0", "WORLD_SIZE": "4"}, "WORLD_SIZE is 4"),
        (None, {"RANK": "0"}, r"RANK=0 is host-0 \(198.51.100.1\)"),
    ],
)
def test_ranks_that_do_not_agree(two_stages: Written, rank: int | None, environ: dict[str, str], message: str) -> None:
    far = with_addresses(two_stages.plan, "198.51.100.1", "127.0.0.1")
    with pytest.raises(UserError, match=message):
        choose_rank(far, rank, environ)


def test_where_the_ranks_meet(two_stages: Written) -> None:
    plan = two_stages.plan
    assert (find_endpoint(plan, None, {}).address, find_endpoint(plan, None, {}).port) == ("127.0.0.1", 29999)
    assert find_endpoint(plan, read_address("--master", "[fd00::1]:29500"), {}).address == "fd00::1"
    torchrun = {"RANK": "0", "MASTER_ADDR": "board", "MASTER_PORT": "1234", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    endpoint = find_endpoint(plan, None, torchrun)
    assert (endpoint.address, endpoint.port, endpoint.agent) == ("board", 1234, True)
    assert not find_endpoint(plan, read_address("--master", "10.0.0.1:1"), torchrun).agent
    for text in ("10.0.0.1", "10.0.0.1:0", ":29500", "10.0.0.1:http"):
        with pytest.raises(UserError, match="ADDRESS:PORT"):
            read_address("--master", text)


def test_the_address_that_gloo_binds() -> None:
    assert local_address("198.51.100.1", "127.0.0.1") == "127.0.0.1"
    assert local_address("198.51.100.1", "localhost") == "127.0.0.1"


def test_threads_never_exceed_the_cores(two_stages: Written) -> None:
    host = replace(two_stages.plan.hosts[0], threads=0)
    plan = replace(two_stages.plan, hosts=(host, two_stages.plan.hosts[1]))
    assert local_threads(plan, 0, 1) == available_cores()
    assert local_threads(plan, 0, 1000) == 1
    assert local_threads(plan, 1, 1) == 1


# --- messages and links -------------------------------------------------------------------------------------------

SPECS = (
    TensorSpec(name="flag", shape=(3,), dtype="bool"),
    TensorSpec(name="wide", shape=(3, 700_001), dtype="float32"),
    TensorSpec(name="none", shape=(3, 0), dtype="int64"),
    TensorSpec(name="scalar", shape=(), dtype="float64"),
    TensorSpec(name="half", shape=(3, 5), dtype="bfloat16"),
)


def test_a_message_is_one_buffer_in_pieces_of_a_megabyte() -> None:
    slot = Slot(Layout(SPECS, b"p" * 16))
    assert [piece.numel() for piece in slot.pieces][:2] == [64 << 10, 1 << 20]
    assert sum(piece.numel() for piece in slot.pieces) == slot.buffer.numel()
    start = slot.buffer.data_ptr()
    for spec, tensor in zip(SPECS, slot.tensors, strict=True):
        assert (tuple(tensor.shape), str(tensor.dtype)) == (spec.shape, f"torch.{spec.dtype}")
        assert (tensor.data_ptr() - start) % 16 == 0 or not tensor.numel()
        tensor.fill_(1)
    slot.write_header(1 << 40, 2, END)
    header = slot.read_header()
    assert (header.plan_id, header.sequence, header.num_valid, header.end) == (b"p" * 16, 1 << 40, 2, True)
    assert all(bool((tensor == 1).all()) for tensor in slot.tensors)


def test_a_full_link_makes_its_producer_wait_until_it_is_given_up() -> None:
    link = LocalLink(Layout(SPECS[:1], b""), 2)
    for _ in range(2):
        link.publish(link.acquire())
    ended = []

    def produce() -> None:
        try:
            link.publish(link.acquire())
            link.acquire()
        except Abandoned:
            ended.append(True)

    thread = threading.Thread(target=produce)
    thread.start()
    first = link.get()
    assert not ended
    link.release(first)
    second, third = link.get(), link.get()
    assert third is first
    assert second is not first
    link.abandon()
    thread.join(5)
    assert ended == [True]


def test_the_first_failure_counts() -> None:
    box = FailureBox()
    box.put(Failure(rank=1, kind=FailureKind.USER, message="first"))
    box.put(Failure(rank=2, kind=FailureKind.BUG, message="second"))
    assert box.failure == Failure.from_json(
        '{"rank": 1, "kind": "user", "message": "first", "trace": "", "private": false}'
    )
    torchscript = RuntimeError(
        "The following operation failed.\nTraceback of TorchScript:\n ...\nRuntimeError: bad shape\n"
    )
    assert Failure.of(0, torchscript).message == "RuntimeError: RuntimeError: bad shape"


def test_tensors_of_a_slot_share_its_memory() -> None:
    slot = Slot(Layout(SPECS[4:], b""))
    slot.buffer.zero_()
    slot.tensors[0].fill_(1.0)
    assert int(torch.count_nonzero(slot.buffer)) > 0
