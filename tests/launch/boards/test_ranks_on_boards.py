"""Which board gets which rank, with which options; boards that cannot take one are named before any starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgecompile.terminal.logs import LogLevel
from edgelaunch.boards.board_client import BoardClient
from edgelaunch.boards.board_facts import own_facts
from edgelaunch.boards.board_list import Board
from edgelaunch.boards.job_orders import JobKind, JobOrder
from edgelaunch.commands.on_boards.run_on_boards import match_boards, options_of_data_host, options_of_rank
from edgelaunch.common.addresses import Address
from edgelaunch.common.software import PROTOCOL, own_version
from edgelaunch.request.run_request import RunRequest

FACTS = own_facts("host-0")


def board(name: str, **facts: object) -> Board:
    client = BoardClient(Address("192.0.2.1", 29400), b"secret of these tests")
    return Board(client=client, facts=replace(FACTS, name=name, **facts), clock_ahead_s=0.0)  # type: ignore[arg-type]


def test_boards_are_found_by_name(two_stages: Written) -> None:
    hosts = two_stages.plan.hosts
    boards = [board("host-1"), board("host-0")]
    assert {rank: found.facts.name for rank, found in match_boards(hosts, boards, []).items()} == {
        0: "host-0", 1: "host-1",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"no agent of host-1 .* was found; it is asleep"):
        match_boards(hosts, boards[1:], ["it is asleep"])


def test_a_board_of_another_protocol_is_named_with_both_versions(two_stages: Written) -> None:
    boards = [board("host-0"), board("host-1", protocol=PROTOCOL - 1, edgecompile="0.1.0")]
    with pytest.raises(UserError) as raised:
        match_boards(two_stages.plan.hosts, boards, [])
    assert str(raised.value) == (
        f"host-1 (192.0.2.1) has edgecompile 0.1.0 (protocol {PROTOCOL - 1}), and this machine {own_version()} "
        f"(protocol {PROTOCOL}): install the same version of edgecompile on all"
    )
    assert match_boards(two_stages.plan.hosts, [boards[0], board("host-1", edgecompile="9.9")], [])


def test_every_rank_logs_as_its_caller_was_told(tmp_path: Path) -> None:
    request = RunRequest(plan_path=tmp_path, boards=True, verify=True, log_json=True, log_level=LogLevel.DEBUG)
    assert dict(options_of_data_host(request)) == {"verify": "", "log_json": "", "log_level": "debug"}
    options = options_of_rank(request)
    assert dict(options) == {"log_json": "", "log_level": "debug"}
    order = JobOrder(job="0" * 32, kind=JobKind.RUN, rank=1, options=options)
    asked = JobOrder.read(order.to_json()).request(tmp_path, None, None, tmp_path)
    assert (asked.rank, asked.log_json, asked.log_level) == (1, True, LogLevel.DEBUG)
    assert options_of_rank(replace(request, log_json=False, log_level=None, quiet=True)) == (("quiet", ""),)
