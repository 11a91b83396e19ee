"""The edgelaunch command. Imports no torch before arguments and plan have been checked."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from edgecompile.plan import Host, Plan, UserError, file_sha256, read_plan
from edgelaunch.allocator import restart_with_heap_environment
from edgelaunch.failures import Failure, exit_code, rank_name
from edgelaunch.items import DEFAULT_ITEMS, ON_BAD_ITEM, STDIN, WHEN_FULL
from edgelaunch.restarts import DEFAULT_RESTARTS
from edgelaunch.say import say

__all__ = ["main"]

SWITCH_S = 0.0005
MAX_RATE_PER_S = 1e6


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see edgelaunch --help")


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        from edgelaunch import __version__

        print(f"edgelaunch {__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, 2 for what the user can mend (one line on stderr), 130 after Ctrl-C; 1 with a traceback is our bug."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        words = sys.argv[1:] if argv is None else list(argv)
        if words[:1] == ["links"]:
            return _measure_links(words[1:])
        if words[:1] == ["doctor"]:
            return _examine(words[1:])
        arguments = _parser().parse_args(words)
        if argv is None and not arguments.local:
            restart_with_heap_environment()
        plan_path = Path(arguments.plan)
        plan = read_plan(plan_path)
        _check_arguments(arguments, plan)
        if arguments.local or arguments.emulate:
            from edgelaunch.together import run_together

            failure = run_together(arguments, plan, plan_path)
            if failure is None:
                return 0
            _describe(failure, plan, None)
            return exit_code(failure)
        _run_rank(arguments, plan, plan_path)
    except UserError as error:
        _say_error(str(error))
        return 2
    except KeyboardInterrupt:
        say("edgelaunch: interrupted")
        return 130


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _measure_links(words: Sequence[str]) -> int:
    from edgelaunch import links_command

    parser = _Parser(
        prog="edgelaunch links",
        description="Measure bandwidth and latency between all pairs of a plan's hosts; start it on each of them.",
    )
    links_command.add_arguments(parser)
    arguments = parser.parse_args(words)
    plan_path = Path(arguments.plan)
    plan = read_plan(plan_path)
    links_command.check_arguments(arguments, plan)
    if not arguments.local:
        _run_rank(arguments, plan, plan_path, links_command.rank_failure)
    from edgelaunch.local import LocalRun

    passed = ["--output", arguments.output] if arguments.output is not None else []
    run = LocalRun(plan, plan_path, passed, quiet=arguments.quiet, max_threads=1, restarts=0,
                   command=("links", "--seconds", str(arguments.seconds)))  # fmt: skip
    failure = run.run()
    if failure is not None:
        _describe(failure, plan, None)
    return exit_code(failure) if failure is not None else 0


def _examine(words: Sequence[str]) -> int:
    from edgelaunch import doctor_command

    parser = _Parser(
        prog="edgelaunch doctor",
        description="Check a rank before a run: what is there, what is not, and what to do about it. Exit status 2 "
        "where something fails.",
    )
    doctor_command.add_arguments(parser)
    arguments = parser.parse_args(words)
    plan_path = Path(arguments.plan)
    plan = read_plan(plan_path)
    doctor_command.check_arguments(arguments, plan)
    if not arguments.local:
        _run_rank(arguments, plan, plan_path, doctor_command.rank_failure)
    return doctor_command.examine_all(plan, plan_path.resolve().parent)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="edgelaunch",
        description="Run one rank of a plan, or with --local or --emulate all of them.",
        epilog="edgelaunch links PLAN measures the links between a plan's hosts; edgelaunch doctor PLAN checks a rank "
        "before a run: see their --help",
    )
    add = parser.add_argument
    add("plan", metavar="PLAN", help="plan.yaml, written by edgecompile")
    add("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    which = parser.add_argument_group("which rank")
    which.add_argument("--rank", type=int, metavar="N", help="else the plan's host that is this machine, or $RANK")
    which.add_argument("--master", metavar="ADDR:PORT", help="where rank 0 listens, else as the plan says")
    which.add_argument("--secret-file", metavar="FILE", help="the shared secret, else $EDGELAUNCH_SECRET")
    which.add_argument("--local", action="store_true", help="start every rank on this machine, on the CPU")
    which.add_argument(
        "--emulate", action="store_true",
        help="the same, each rank with its host's bandwidth, CPU share and memory limit (Linux, root)",
    )  # fmt: skip
    which.add_argument("--threads", type=int, metavar="N", help="intra-op threads, else as the plan says")
    which.add_argument(
        "--restarts", type=int, metavar="N",
        help="with --local or --emulate: start a rank that was killed or lost again, so often "
        f"(default {DEFAULT_RESTARTS})",
    )  # fmt: skip
    data = parser.add_argument_group("data, on rank 0")
    data.add_argument(
        "--input",
        metavar="PATH",
        help=".npy .npz .safetensors .txt .jsonl .tsv, an image, a folder of images, or - for "
        "standard input: a line a sentence or image path, or JSON with an array by input name",
    )
    data.add_argument("--rate", type=float, metavar="R", help="feed R items a second, whether results keep up or not")
    data.add_argument(
        "--when-full",
        choices=WHEN_FULL,
        metavar="POLICY",
        help="wait (default) or drop-oldest: what becomes of live items that the pipeline cannot take",
    )
    data.add_argument(
        "--on-bad-item",
        choices=ON_BAD_ITEM,
        metavar="POLICY",
        help="stop (default) or gap: what becomes of an image or a line that cannot be read; a gap is an `error` in a "
        ".jsonl, NaN (or 0) in arrays",
    )
    data.add_argument("--output", metavar="PATH", help="results as .npy, .npz or .jsonl")
    data.add_argument("--resume", action="store_true", help="go on where an earlier run with the same --output ended")
    data.add_argument(
        "--items", type=int, metavar="N", help=f"at most so many; without --input, default {DEFAULT_ITEMS}"
    )
    data.add_argument("--verify", action="store_true", help="compare with the golden items of the plan")
    add("--quiet", action="store_true", help="only results and errors")
    add("--json", action="store_true", help="on rank 0: one JSON object on standard output instead of tables")
    add("--run", metavar="FILE", help="on rank 0: the run's record for edgeplan report (default: run.json by the plan)")
    add("--metrics-port", metavar="[ADDR:]PORT", help="serve this rank's counters to Prometheus there")
    for hidden in ("--listen-fd", "--supervisor-fd"):
        add(hidden, type=int, help=argparse.SUPPRESS)
    add("--loopback", action="store_true", help=argparse.SUPPRESS)
    return parser


def _check_arguments(arguments: argparse.Namespace, plan: Plan) -> None:
    for name in ("items", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} does not do: it must be 1 or more")
    live = arguments.rate is not None or arguments.input == STDIN
    if arguments.resume and (live or (arguments.output is None and arguments.rank in (None, 0))):
        raise UserError("--resume goes on from an --output, with an --input that is the same again: a file or a folder")
    if arguments.local and arguments.emulate:
        raise UserError("--local and --emulate both start every rank here: give one of them")
    together = arguments.local or arguments.emulate
    if together and (arguments.rank is not None or arguments.master is not None):
        option = "--local" if arguments.local else "--emulate"
        raise UserError(f"{option} starts every rank here: leave out --rank and --master")
    if arguments.restarts is not None and (arguments.restarts < 0 or not together):
        raise UserError(f"--restarts {arguments.restarts} does not do: it is for --local or --emulate, and 0 or more")
    if arguments.input not in (None, STDIN) and not Path(arguments.input).exists():
        raise UserError(f"{arguments.input}: no such input")
    _check_live(arguments)
    _check_reports(arguments)
    if arguments.output is not None and (together or arguments.rank in (None, 0)):
        from edgelaunch.outputs import check_output

        check_output(plan, Path(arguments.output))


def _check_reports(arguments: argparse.Namespace) -> None:
    if arguments.run is not None and not Path(arguments.run).absolute().parent.is_dir():
        raise UserError(f"{arguments.run}: is in no folder that there is: make it, or name another --run")
    if arguments.metrics_port is not None:
        from edgelaunch.metrics import parse_port

        parse_port(arguments.metrics_port)


def _check_live(arguments: argparse.Namespace) -> None:
    if arguments.rate is not None and not 0 < arguments.rate <= MAX_RATE_PER_S:
        raise UserError(f"--rate {arguments.rate:g} does not do: it must be over 0, and {MAX_RATE_PER_S:g} at most")
    if arguments.when_full is not None and arguments.rate is None and arguments.input != STDIN:
        raise UserError("--when-full is for live items: give --rate R, or --input - for standard input")
    drops = arguments.when_full == "drop-oldest"
    if drops and arguments.output is not None and not arguments.output.lower().endswith(".jsonl"):
        raise UserError(f"{arguments.output}: has no place for the items' numbers, and --when-full drop-oldest leaves "
                        "gaps: name a .jsonl")  # fmt: skip


def _say_error(message: str) -> None:
    say(f"edgelaunch: error: {' '.join(message.split())}")


def _describe(failure: Failure, plan: Plan, own_rank: int | None) -> None:
    """Prints why the run ended, once: a traceback for a bug, one line for anything else."""
    name = rank_name(plan, failure.rank)
    own = failure.rank == (own_rank or 0)
    named = own or f"rank {failure.rank} (" in failure.message
    message = failure.message if named else f"{name}: {failure.message}"
    if failure.kind == "interrupted" and failure.rank == own_rank:
        say("edgelaunch: interrupted")
        return
    if failure.kind == "bug" and (own_rank is None or failure.rank == own_rank):
        sys.stderr.write(failure.trace)
        message = message if name in message else f"{name}: {message}"
    _say_error(message)


# --- one rank --------------------------------------------------------------------------------------------------------


Channel = socket.socket | None
"""To the parent that started this rank, if one did."""
RankWork = Callable[[argparse.Namespace, Plan, Path, list[Any], Channel], tuple[Failure | None, int]]


def _run_rank(arguments: argparse.Namespace, plan: Plan, plan_path: Path, work: RankWork | None = None) -> NoReturn:
    """Ends the process itself: a thread that waits in gloo would keep the interpreter from ending."""
    from edgelaunch.allocator import use_one_arena
    from edgelaunch.local import watch_parent
    from edgelaunch.partial import say_left_behind

    use_one_arena()
    channel = watch_parent(arguments.supervisor_fd) if arguments.supervisor_fd is not None else None
    discard: list[Any] = []
    own = arguments.rank or 0
    try:
        failure, rank = (work or _rank_failure)(arguments, plan, plan_path, discard, channel)
    except KeyboardInterrupt:
        failure, rank = Failure(rank=own, kind="interrupted", message="interrupted"), own
    except BrokenPipeError:  # whoever read our output has seen enough
        os._exit(1)
    except Exception as error:
        failure, rank = Failure.of(own, error), own
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if failure is not None:
        for results in discard:
            results.discard()
        if channel is not None:
            _report(channel, failure)
        else:
            if rank == 0:
                say_left_behind(arguments.output)
            _describe(failure, plan, rank)
    sys.stdout.flush()
    sys.stderr.flush()
    code = exit_code(failure) if failure is not None else 0
    os._exit(2 if code == 130 and failure is not None and failure.rank != rank else code)


def _report(channel: socket.socket, failure: Failure) -> None:
    with contextlib.suppress(OSError):  # the parent is gone: nobody is left to tell
        channel.sendall(failure.to_json().encode() + b"\n")


def _rank_failure(
    arguments: argparse.Namespace, plan: Plan, plan_path: Path, discard: list[Any], channel: Channel
) -> tuple[Failure | None, int]:
    """Runs the rank; results that were begun are put into `discard`."""
    from edgelaunch.identity import choose_rank, find_endpoint, rank_environment
    from edgelaunch.shards import check_rank, lacking

    folder = plan_path.resolve().parent
    environ = {} if arguments.loopback else rank_environment(plan, os.environ)
    rank = choose_rank(plan, arguments.rank, environ)
    endpoint = find_endpoint(plan, arguments.master, environ, arguments.listen_fd)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a peer that ends is no page of C++ frames
    with ThreadPoolExecutor(1) as pool:
        # hashing and importing torch take a second each, and neither needs the other
        fetches = rank > 0 and not arguments.loopback  # else rank 0 reads the same folder
        checked = pool.submit(lambda: lacking(plan, rank, folder) if fetches else check_rank(plan, rank, folder))
        session = None
        gc.disable()  # what is imported stays: looking for garbage in it is a tenth of the time that importing takes
        if rank == 0:
            from edgelaunch.session import Session

            session = Session(arguments, plan, folder)
            discard.append(session)
        import torch

        from edgelaunch.rank import RankOptions
        from edgelaunch.secret import find_secret
        from edgelaunch.supervise import Supervisor

        gc.freeze()
        gc.enable()
        lacks = checked.result() or ()

    def log(text: str) -> None:
        if not arguments.quiet:
            say(f"{rank_name(plan, rank)}: {text}")

    torch.set_num_interop_threads(1)
    # the thread that computes must not wait long for Python's lock when another prepares items
    sys.setswitchinterval(SWITCH_S)
    options = RankOptions(
        plan=plan, folder=folder, plan_sha256=file_sha256(plan_path), rank=rank, endpoint=endpoint,
        threads=arguments.threads or _threads(plan, rank), log=log,
        device=_device(arguments, plan.hosts[rank], endpoint.address, log),
        secret=find_secret(plan, endpoint.address, arguments.secret_file, os.environ), lacking=tuple(lacks),
    )  # fmt: skip
    live = _live(arguments, plan, session) if session is not None else None
    ends = live or session

    def lost(silent: int, process: int) -> None:
        if channel is not None:
            _report(channel, Failure(rank=silent, kind="silent", message=str(process)))

    def last_resort(failure: Failure) -> None:
        _say_error(failure.message)
        os._exit(exit_code(failure))

    source, results = (ends.source, ends.results) if ends is not None else (None, None)
    runner = Supervisor(options, source, results, lost, last_resort)
    if arguments.metrics_port is not None:
        from edgelaunch.metrics import serve_metrics

        serve_metrics(arguments.metrics_port, runner)
    failure = _supervise(runner, rank)
    if failure is None and session is not None:
        session.report(runner)
        if live is not None and not arguments.quiet:
            say(live.report()) if arguments.json else print(live.report())
    elif failure is None:
        log("done")
    return failure, rank


def _device(arguments: argparse.Namespace, host: Host, master: str, log: Callable[[str], None]) -> str:
    """As planned; but where rank 0 is met on loopback all ranks share this machine, as with --local: on the CPU."""
    from edgelaunch.identity import is_loopback

    if arguments.loopback or host.execution == "cpu":
        return "cpu"
    if arguments.master is not None and is_loopback(master):
        log("planned for cuda; runs on the CPU, since --master on loopback puts every rank on this machine")
        return "cpu"
    return host.execution


def _live(arguments: argparse.Namespace, plan: Plan, session: Any) -> Any:
    """What stands between the session and the pipeline where items come live; None where they are just there."""
    if arguments.rate is None and arguments.input != STDIN:
        return None
    from edgelaunch.live import Live

    drops = arguments.when_full == "drop-oldest"
    return Live(plan, session.source, session.results, rate_per_s=arguments.rate, drop_oldest=drops)


def _supervise(runner: Any, rank: int) -> Failure | None:
    failure: Failure | None
    try:
        runner.start()
        failure = runner.wait()
    except KeyboardInterrupt:
        failure = Failure(rank=rank, kind="interrupted", message="was stopped by Ctrl-C")
    if failure is not None:
        runner.tell(failure)
    return failure


def _threads(plan: Plan, rank: int) -> int:
    """Intra-op threads: as the plan says, but no more than this rank's share where several ranks are on one machine."""
    from edgelaunch.local import available_cores, local_threads

    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if os.environ.get("RANK") else 1
    if here > 1:
        return local_threads(plan, rank, here)
    sharing = sum(host.address == plan.hosts[rank].address for host in plan.hosts)
    return plan.hosts[rank].threads or max(1, available_cores() // sharing)
