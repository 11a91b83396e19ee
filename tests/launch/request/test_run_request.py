"""A request is all that a command was asked: what it is written as is read as the same, and ranks are given it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgecompile.terminal.logs import LogLevel
from edgelaunch.common.addresses import Address
from edgelaunch.common.items import OnBadItem, WhenFull
from edgelaunch.emulation.emulated_run import Emulation, OnEmulatedHosts
from edgelaunch.local.forked import Forked
from edgelaunch.local.local_run import Children, LocalRun
from edgelaunch.local.placement import OnLoopback, RankPlacement
from edgelaunch.process.cores import share_of_cores
from edgelaunch.request.links_request import DoctorRequest, LinksRequest
from edgelaunch.request.log_options import check_log
from edgelaunch.request.option_fields import Option, Reach, options_of
from edgelaunch.request.parsers import Request, command_parser, parse, parse_run, run_parser
from edgelaunch.request.run_request import RunRequest

REQUESTS: tuple[type[Any], ...] = (RunRequest, LinksRequest, DoctorRequest)
PLAN = Path("folder/plan.yaml")
PARENTS_OWN = {"boards", "join", "ssh", "ssh_program",
               "rank", "master", "listen_fd", "web_fd", "supervisor_fd", "loopback", "local", "emulate", "threads",
               "restarts", "cores"}  # fmt: skip

NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=12)
PATHS = st.builds(lambda begin, name, end: Path(begin + name + end), st.sampled_from(["", "-", "--", "./-", "/"]),
                  NAMES, st.sampled_from(["", ".jsonl", ".yaml"]))  # fmt: skip
ADDRESSES = st.builds(
    Address,
    st.sampled_from(["127.0.0.1", "::1", "fe80::1%eth0", "board-1.local", "-x", "[x", "x]"]),
    st.integers(1, 65535),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.just(True),
    "int | None": st.integers(-3, 10**9),
    "float | None": st.floats(allow_nan=False),
    "float": st.floats(-1, 700),
    "int": st.integers(-(2**63), 2**63),
    "str | None": st.builds(str.__add__, st.sampled_from(["", "-", "--", "--json ", "-5"]), NAMES) | st.just(""),
    "str": NAMES,
    "Path": PATHS,
    "Path | None": st.just(Path("-")) | PATHS,
    "Address | None": ADDRESSES,
    "tuple[int, ...]": st.lists(st.integers(0, 4095), max_size=3).map(tuple),
    "tuple[Address, ...]": st.lists(ADDRESSES, max_size=2).map(tuple),
    "WhenFull | None": st.sampled_from(WhenFull),
    "OnBadItem | None": st.sampled_from(OnBadItem),
    "LogLevel | None": st.sampled_from(LogLevel),
}
"""By the annotation of a field: values that may not be its default."""


def valid(request: type[Any], values: dict[str, Any]) -> Any:
    """None where the values do not go together."""
    try:
        found = request(**values)
        check_log(found.log_level, quiet=found.quiet)
        return found
    except UserError:
        return None


def requests() -> st.SearchStrategy[Any]:
    def some(request: type[Any]) -> st.SearchStrategy[Any]:
        known = {item.name: VALUES[str(item.type)] for item in fields(request)}
        needed = {"plan_path": known.pop("plan_path")}
        return st.fixed_dictionaries(needed, optional=known).map(lambda values: valid(request, values))

    return st.sampled_from(REQUESTS).flatmap(some).filter(lambda request: request is not None)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(requests())
def test_what_a_request_is_written_as_is_read_as_the_same(request: Request) -> None:
    words = request.words()
    assert parse(words) == request
    if isinstance(request, RunRequest):
        assert parse_run(words) == request


@pytest.mark.parametrize("request_type", REQUESTS)
def test_every_option_of_a_parser_is_a_field_and_every_field_an_option(request_type: type[Any]) -> None:
    parser = command_parser(request_type.COMMAND) if request_type.COMMAND else run_parser()
    words = {word for action in parser._actions for word in action.option_strings}
    flags = [option.flag for _, option in options_of(request_type) if option.flag]
    assert words - {"-h", "--help", "--version", "--completion"} == set(flags)
    assert len(flags) == len(set(flags)) == len(fields(request_type)) - 1


# --- what the ranks of --local and --emulate are given ----------------------------------------------------------------


class Recorder:
    """Stands for a ForkServer: keeps the words that each rank would be started with."""

    def __init__(self) -> None:
        self.started: list[Request] = []

    def fork(self, words: Sequence[str], keep: Collection[int], *, show: bool) -> Forked:
        self.started.append(parse(words))
        return _Ended(0, None)

    def spare(self) -> None:
        """The system does not allow one."""


class _Ended(Forked):
    """A process that ended well at once."""

    def poll(self) -> int:
        self.returncode = 0
        return 0


def changed(item: Field[Any]) -> Any:
    """A value of the field that is not its default, and goes with what `asked` gives besides."""
    return {
        "bool": True, "int | None": 7, "float | None": 12.5, "float": 1.25, "int": -3, "Path": PLAN,
        "Path | None": Path("-odd name.jsonl"), "Address | None": Address("::1", 9400),
        "WhenFull | None": WhenFull.DROP_OLDEST, "LogLevel | None": LogLevel.WARNING, "OnBadItem | None": OnBadItem.GAP,
        "str | None": "-5 degrees\n--json",
    }[str(item.type)]  # fmt: skip


def asked(request: type[Any], item: Field[Any]) -> Any:
    """A request of all ranks in which this option was given."""
    beside = {
        "resume": {"output": Path("y.jsonl")},
        "when_full": {"rate": 3.0},
        "repeat": {"input": Path("x.npy")},
    }.get(item.name, {})
    value = Path("y.yaml") if request is LinksRequest and item.name == "output" else changed(item)
    return request(**{"plan_path": PLAN, "local": True, **beside, item.name: value})


def reaching(request: type[Any]) -> list[Any]:
    given = [(item, option) for item, option in options_of(request) if option.reach is not Reach.PARENT]
    return [pytest.param(request, *pair, id=f"{request.__name__}-{pair[0].name}") for pair in given]


def placements(written: Written) -> tuple[RankPlacement, RankPlacement]:
    return OnLoopback(written.plan, 29501, 1), OnEmulatedHosts(Emulation(written.plan), 1)


@pytest.mark.parametrize(("request_type", "item", "option"), [*reaching(RunRequest), *reaching(LinksRequest)])
def test_ranks_are_given_what_the_user_asked(
    two_stages: Written, request_type: type[Any], item: Field[Any], option: Option
) -> None:
    if item.name == "secret_file" and request_type is RunRequest:
        request: Any = RunRequest(plan_path=PLAN, secret_file=PLAN)  # Pipeline(local=True) alone hands it on
    else:
        request = asked(request_type, item)
    for place in placements(two_stages):
        recorder = Recorder()
        children = Children(two_stages.plan, request, place)
        for rank in range(2):
            children.start(rank, fork_server=recorder)  # type: ignore[arg-type]
        children.end(0.0)
        first, second = recorder.started
        assert (first.rank, second.rank) == (0, 1)
        assert (first.loopback, second.loopback, first.local, second.local) == (True, True, False, False)
        assert getattr(first, item.name) == getattr(request, item.name)
        for_all = option.reach is Reach.EVERY_RANK
        assert getattr(second, item.name) == (getattr(request, item.name) if for_all else item.default)


def test_what_no_rank_is_given_is_listed_with_the_reason() -> None:
    for request in REQUESTS:
        own = {item.name: option.why for item, option in options_of(request) if option.reach is Reach.PARENT}
        assert set(own) <= PARENTS_OWN
        assert all(own.values())
        assert all(item.default is not MISSING for item, _ in options_of(request) if item.name in own)


def test_the_parent_gives_each_rank_its_own(two_stages: Written) -> None:
    recorder = Recorder()
    request = RunRequest(plan_path=PLAN, local=True, restarts=2, threads=1, items=7)
    run = LocalRun(two_stages.plan, request, max_threads=1, forks=lambda: recorder)  # type: ignore[arg-type,return-value]
    assert run.run() is None
    first, second = recorder.started
    assert isinstance(first, RunRequest)
    assert isinstance(second, RunRequest)
    assert (first.listen_fd is None, second.listen_fd is None) == (False, True)
    assert None not in (first.supervisor_fd, second.supervisor_fd, first.master)
    assert first.master == second.master
    assert (first.threads, second.threads, first.restarts, second.restarts) == (1, 1, None, None)
    assert (first.items, second.items) == (7, None)
    assert (first.cores, second.cores) == (share_of_cores(0, 2), share_of_cores(1, 2))
