"""The options by which one command starts all ranks, here or on their boards."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgecompile.contract.errors import UserError, invalid_value
from edgelaunch.common.addresses import Address
from edgelaunch.request.board_addresses import read_joins, read_login
from edgelaunch.request.option_fields import option
from edgelaunch.request.rank_request import ALL_RANKS, CHOSEN, WHICH_RANK, RankRequest

__all__ = ["DEFAULT_RESTARTS", "StartRequest"]

BOARDS = "from one place"
EACH_BOARD = "the caller stands for every board"
DEFAULT_RESTARTS = 3


@dataclass(frozen=True, kw_only=True)
class StartRequest(RankRequest):
    local: bool = field(default=False, metadata=option(
        "--local", why=ALL_RANKS, group=WHICH_RANK, help="start every rank on this machine, on the CPU"))  # fmt: skip
    emulate: bool = field(default=False, metadata=option(
        "--emulate", why=ALL_RANKS, group=WHICH_RANK,
        help="the same, each rank with its host's bandwidth, CPU share and memory limit (Linux, root)"))  # fmt: skip
    threads: int | None = field(default=None, metadata=option(
        "--threads", int, why=f"{CHOSEN}, which this limits", group=WHICH_RANK, metavar="N",
        help="intra-op threads, else as the plan says"))  # fmt: skip
    restarts: int | None = field(default=None, metadata=option(
        "--restarts", int, why="the parent starts ranks again", group=WHICH_RANK, metavar="N",
        help="where this command starts all ranks: how often to restart one that was killed or lost "
        f"(default {DEFAULT_RESTARTS})"))  # fmt: skip
    boards: bool = field(default=False, metadata=option(
        "--boards", why=EACH_BOARD, group=BOARDS, help="start the ranks on their boards, by their agents"))  # fmt: skip
    join: tuple[Address, ...] = field(default=(), metadata=option(
        "--join", read_joins, why=EACH_BOARD, group=BOARDS, metavar="ADDRESS[:PORT]", several=True,
        help="with --boards: ask this board, and those that joined it, instead of mDNS"))  # fmt: skip
    ssh: str | None = field(default=None, metadata=option(
        "--ssh", read_login, why=EACH_BOARD, group=BOARDS, metavar="USER@", without="",
        help="start the ranks on their boards by ssh, without agents"))  # fmt: skip
    ssh_program: str = field(default="edgelaunch", metadata=option(
        "--ssh-program", str, why=EACH_BOARD, group=BOARDS, metavar="PATH",
        help="with --ssh: edgelaunch on the boards (default: as their PATH finds it)"))  # fmt: skip

    def check_ways(self) -> None:
        """Raises UserError where two ways to start ranks do not go together, or a value is out of its range."""
        if self.threads is not None and self.threads < 1:
            raise invalid_value(self.threads, "--threads", "1 or more")
        if self.local and self.emulate:
            raise UserError("--local and --emulate both start every rank here: give one of them")
        if self.all_ranks and (self.rank is not None or self.master is not None):
            option = "--local" if self.local else "--emulate"
            raise UserError(f"{option} starts every rank here: leave out --rank and --master")
        if self.all_ranks and self.secret_file is not None:
            raise UserError(
                "--secret-file is for ranks on several machines: those of this command share one of their own"
            )
        if self.restarts is not None and self.restarts < 0:
            raise invalid_value(self.restarts, "--restarts", "0 or more")
        if self.restarts is not None and not self.starts_others:
            raise UserError(
                "--restarts needs --local, --emulate, --boards or --ssh: a rank by hand is started again by hand"
            )
        self._check_boards()

    def _check_boards(self) -> None:
        if self.boards and self.ssh is not None:
            raise UserError("--boards starts ranks by agents, and --ssh without them: give one of them")
        if self.ssh is not None and self.secret_file is not None:
            raise UserError("--ssh draws a secret for the run itself: leave out --secret-file")
        if self.join and not self.boards:
            raise UserError("--join names a board for --boards")
        if not self.boards and self.ssh is None:
            return
        if self.ssh is not None:
            read_login(self.ssh)
        option = "--boards" if self.boards else "--ssh"
        if self.all_ranks:
            raise UserError(f"{option} starts each rank on its board, --local and --emulate all of them here: give one")
        if self.rank is not None or self.master is not None:
            raise UserError(f"{option} starts every rank: leave out --rank and --master")

    @property
    def all_ranks(self) -> bool:
        """Whether every rank is started on this machine."""
        return self.local or self.emulate

    @property
    def starts_others(self) -> bool:
        """Whether every rank is started by this command, here or elsewhere."""
        return self.all_ranks or self.boards or self.ssh is not None

    @property
    def most_restarts(self) -> int:
        """Of each rank."""
        return DEFAULT_RESTARTS if self.restarts is None else self.restarts
