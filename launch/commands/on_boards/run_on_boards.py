"""`edgelaunch PLAN --boards` and `--ssh`: starts every rank on its board. Imports no torch."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from edgecompile.contract.cluster import Host
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.boards.across_machines import AcrossMachines
from edgelaunch.boards.agent_rank import AgentRank, RankElsewhere, Sent
from edgelaunch.boards.board_list import Board, find_boards
from edgelaunch.boards.boards_run import BoardsRun
from edgelaunch.boards.job_orders import JobKind, JobOrder, words_for_data_host
from edgelaunch.boards.ssh_rank import SshRank, check_ssh
from edgelaunch.commands.web_option import open_page
from edgelaunch.common.addresses import Address
from edgelaunch.common.failures import Failure
from edgelaunch.common.identity import address_is_here, address_towards, is_loopback, is_this_machine, resolve
from edgelaunch.common.secret import VARIABLE, stated_secret
from edgelaunch.common.software import PROTOCOL, own_version
from edgelaunch.process.limits import check_limits
from edgelaunch.process.stderr import say
from edgelaunch.request.boards_request import DEFAULT_WAIT_S
from edgelaunch.request.option_fields import Reach, options_of
from edgelaunch.request.run_request import RunRequest
from edgelaunch.request.serve_request import ServeRequest

__all__ = ["caller_name", "run_on_boards"]


def run_on_boards(request: RunRequest | ServeRequest, plan: Plan) -> Failure | None:
    """Returns the first cause where the ranks have not all ended well.

    Raises:
        UserError: a board is not there, or not ready, or cannot be given what it needs.
    """
    for host in plan.hosts:
        if is_loopback(host.address) and len(plan.hosts) > 1:
            raise UserError(f"the plan's host {host.name} is at {host.address}, which is whatever machine asks",
                            fix="compile with the boards' addresses, which edgelaunch boards --output DIR writes, or "
                            "run it with --local")  # fmt: skip
    restarts = request.most_restarts
    here = is_this_machine(plan.hosts[0])
    web = open_page(request) if here and isinstance(request, RunRequest) else None
    elsewhere = _by_ssh(request, plan, restarts, here) if request.ssh is not None else (
        _by_agents(request, plan, restarts, here)
    )  # fmt: skip
    place = None
    if here:
        check_limits(plan, (0,))
        place = AcrossMachines(_own_endpoint(plan), request.threads)
    return BoardsRun(plan, request, elsewhere, place, web=web).run()


def caller_name() -> str:
    """Who asks, for others to read."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    name = f"{user}@{socket.gethostname()}"
    return name if name.isprintable() and len(name) <= 200 else "unknown"


def _own_endpoint(plan: Plan) -> Address:
    """Where rank 0 listens, if it is this machine: at the plan's address, unless that is not this machine's."""
    host = plan.hosts[0]
    if len(plan.hosts) == 1 or address_is_here(host.address):
        return Address(host.address, host.port)
    own = address_towards(plan.hosts[1].address)
    if own is None:
        raise UserError(f"{host.name} is this machine, but not at {host.address}: compile with its address")
    return Address(own, host.port)


# --- by agents -------------------------------------------------------------------------------------------------------


def _by_agents(request: RunRequest | ServeRequest, plan: Plan, restarts: int, here: bool) -> Sequence[RankElsewhere]:
    if not here:
        _check_remote_data_host(request, plan.hosts[0])
    secret = stated_secret(request.secret_file, os.environ)
    found = find_boards(secret, request.join, DEFAULT_WAIT_S)
    board_of = match_boards(
        [host for host in plan.hosts if not (here and host.rank == 0)], found.boards, found.problems
    )
    master = _own_endpoint(plan) if here else Address(board_of[0].address.host, plan.hosts[0].port)
    if not request.quiet:
        names = ", ".join(f"rank {rank} on {board.title}" for rank, board in sorted(board_of.items()))
        say(f"starting {'rank 0 here, ' if here else ''}{names}")
    ranks = []
    for rank, board in board_of.items():
        order = JobOrder(job=secrets.token_hex(16), kind=JobKind.RUN, caller=caller_name(), rank=rank,
                         master=str(master), restarts=restarts, threads=request.threads)  # fmt: skip
        sent = Sent(plan_path=request.plan_path)
        if rank == 0 and isinstance(request, RunRequest):
            record = request.run if request.run is not None else request.plan_path.resolve().parent / "run.json"
            results = {"run.json": record}
            if request.output is not None:
                results[f"output{request.output.suffix}"] = request.output
                order = replace(order, output_name=f"output{request.output.suffix}")
            order = replace(order, options=options_of_data_host(_page_on(board, request)))
            sent = Sent(plan_path=request.plan_path, plan=plan, input=request.input, results=results)
        else:
            order = replace(order, options=options_of_rank(request))
        ranks.append(AgentRank(board, order, sent, say))
    return ranks


def _page_on(board: Board, request: RunRequest) -> RunRequest:
    """A page for one machine alone would be for the board alone: it is served where rank 0 is met."""
    if request.web is None or not is_loopback(request.web.host):
        return request
    return replace(request, web=Address(board.address.host, request.web.port))


def match_boards(hosts: Sequence[Host], boards: Sequence[Board], problems: Sequence[str]) -> Mapping[int, Board]:
    """By rank: the board at the host's address, else the one of its name.

    Raises:
        UserError: a host has none; the hosts that have none are named, and what is known of them.
    """
    free = list(boards)
    found: dict[int, Board] = {}
    for host in hosts:
        address = resolve(host.address) or host.address
        # several agents may share an address
        fitting = sorted(
            (board for board in free if board.address.host == address or board.facts.name == host.name),
            key=lambda board: (board.address.host != address, board.facts.name != host.name),
        )
        if fitting:
            found[host.rank] = fitting[0]
            free.remove(fitting[0])
    missing = [host for host in hosts if host.rank not in found]
    if missing:
        names = ", ".join(f"{host.name} ({host.address})" for host in missing)
        known = f"; {problems[0]}" if problems else ""
        raise UserError(f"no agent of {names} was found{known}",
                        fix="start edgelaunch agent there, or name it with --join ADDRESS; edgelaunch boards lists "
                        "what is there")  # fmt: skip
    busy = [f"{board.title}: busy with {board.facts.busy}" for board in found.values() if board.facts.busy]
    if busy:
        raise UserError("; ".join(busy), fix="wait until that has ended, or stop it where it was started")
    bare = [board.title for board in found.values() if not board.facts.torch]
    if bare:
        raise UserError(f"torch is not installed on {', '.join(bare)}", fix="install one that fits the board there")
    unlike = [f"{board.title} has edgecompile {board.facts.edgecompile} (protocol {board.facts.protocol})"
              for board in found.values() if board.facts.protocol != PROTOCOL]  # fmt: skip
    if unlike:
        raise UserError(f"{'; '.join(unlike)}, and this machine {own_version()} (protocol {PROTOCOL})",
                        fix="install the same version of edgecompile on all")  # fmt: skip
    return found


def options_of_data_host(request: RunRequest) -> tuple[tuple[str, str], ...]:
    """What the user asked for, as an order has it: not paths, which are the agent's own."""
    known = words_for_data_host(RunRequest)
    defaults = {item.name: item.default for item in fields(RunRequest)}
    found = []
    for name, read in known.items():
        value = getattr(request, name)
        if value != defaults[name]:
            found.append((name, "" if read is None else str(getattr(value, "value", value))))
    return tuple(found)


def options_of_rank(request: RunRequest | ServeRequest) -> tuple[tuple[str, str], ...]:
    """Of any other rank."""
    own = request if isinstance(request, RunRequest) else request.run_request()
    everywhere = {item.name for item, known in options_of(RunRequest) if known.reach is Reach.EVERY_RANK}
    return tuple((name, word) for name, word in options_of_data_host(own) if name in everywhere)


def _check_remote_data_host(request: RunRequest | ServeRequest, host: Host) -> None:
    """Raises UserError where an option needs the data host's own terminal or files, and that is another machine."""
    why = ""
    if isinstance(request, ServeRequest):
        why = "edgelaunch serve answers on the data host"
    elif request.chat or request.from_stdin:
        why = "--chat and --input - need a terminal on the data host"
    elif request.resume:
        why = "--resume needs the earlier output on the data host"
    elif request.metrics_port is not None:
        why = "--metrics-port is the data host's"
    elif request.api_key_file is not None:
        why = "--api-key-file is read on the data host"
    elif request.input is not None and not request.input.is_file():
        why = f"--input {request.input} is not a file, and a folder is read on the data host"
    if why:
        raise UserError(f"{why}, which is {host.name} ({host.address}): start this there, or compile with this machine "
                        "as the first host (edgelaunch boards --first)")  # fmt: skip


# --- by ssh ----------------------------------------------------------------------------------------------------------


def _by_ssh(request: RunRequest | ServeRequest, plan: Plan, restarts: int, here: bool) -> Sequence[RankElsewhere]:
    check_ssh()
    host = plan.hosts[0]
    if not here:
        raise UserError(f"--ssh starts the data host's rank here, and the plan's is {host.name} ({host.address})",
                        fix="start this there, or use --boards")  # fmt: skip
    # ranks share a secret of this run alone: the rank that is started here takes it from the environment
    secret = os.environ[VARIABLE] = secrets.token_hex(32)
    master = str(_own_endpoint(plan))
    ranks: list[RankElsewhere] = []
    for other in plan.hosts[1:]:
        order = JobOrder(job=secrets.token_hex(16), kind=JobKind.RUN, caller=caller_name(), rank=other.rank,
                         master=master, restarts=restarts, threads=request.threads,
                         options=options_of_rank(request))  # fmt: skip
        ranks.append(SshRank(order, request.plan_path, login=f"{request.ssh}{other.address}", secret=secret,
                             program=request.ssh_program, tell=say))  # fmt: skip
    return ranks
