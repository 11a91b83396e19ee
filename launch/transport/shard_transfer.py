"""Sends a missing or stale shard from rank 0 to a rank, over a process group of the two.

The rank asks in the store, where what it says bears the shared secret. Rank 0 gives each rank its own shards and no
other. A broken transfer resumes where it stopped, and what came counts only with the sha256 that the plan names.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist

from edgecompile.contract.atomic_files import file_sha256
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan, Stage
from edgecompile.contract.quantities import format_bytes
from edgecompile.execution.message_layout import piece_sizes
from edgelaunch.common.failures import PeerLostError, rank_name
from edgelaunch.common.identity import Endpoint
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.common.shard_files import check_shard, stages_of
from edgelaunch.store.list_reader import ListReader
from edgelaunch.store.meeting import Board
from edgelaunch.store.seal import Seal
from edgelaunch.transport.links import GlooGroup
from edgelaunch.transport.process_group import Epoch, Member, local_address

__all__ = ["ShardServer", "fetch_shards"]

REQUESTS = "fetch"
POLL_S = 0.1
SERVE_POLL_S = 0.5
"""Rank 0 looks for requests so often: each look takes of a core that computes."""
WINDOW = 4
"""Pieces under way at once."""
TAG = 0
CONNECT_S = 15.0
HASHING_S = 600.0
"""Rank 0 hashes what it has before it answers, and beats all the while."""
TELL_S = 5.0
NUM_ATTEMPTS = 5
"""In a row, without one byte more."""
SPARE_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Request:
    rank: int
    token: str
    """Of this attempt alone: the process group meets under it."""
    sha256: str
    offset: int
    """So many bytes are there already."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    num_bytes: int
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class TransferContext:
    """How two ranks meet."""

    plan: Plan
    folder: Path
    endpoint: Endpoint
    seal: Seal | None
    rank: int

    @staticmethod
    def of(options: RankOptions, seal: Seal | None) -> TransferContext:
        return TransferContext(
            plan=options.plan, folder=options.folder, endpoint=options.endpoint, seal=seal, rank=options.rank
        )

    def board(self) -> Board:
        return Board(self.endpoint, serve=False, timeout_s=self.plan.runtime.timeout_s, seal=self.seal)

    @contextlib.contextmanager
    def group(self, board: Board, request: Request) -> Iterator[GlooGroup]:
        """Rank 0 and the rank that asks. Raises PeerLostError where the other end does not come."""
        address = local_address(self.plan.hosts[self.rank].address, self.endpoint.address)
        member = Member(
            epoch=0, rank=self.rank, group=(0, request.rank), peers=(request.rank if self.rank == 0 else 0,),
            address=address, timeout_s=min(CONNECT_S, self.plan.runtime.timeout_s),
        )  # fmt: skip
        epoch = Epoch(lambda _: board.group_store(f"fetch-{request.token}"), member, lambda error: None)
        try:
            yield epoch.group(*member.peers)
        finally:
            epoch.abandon()

    @property
    def silence(self) -> timedelta:
        """A piece that takes longer ends the attempt: the group has only these two, so no other rank is disturbed."""
        return timedelta(seconds=max(self.plan.runtime.detect_s, self.plan.runtime.timeout_s))


@contextlib.contextmanager
def _other_end(rank: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(rank, str(error)) from error


# --- rank 0 ----------------------------------------------------------------------------------------------------------


class ShardServer:
    """Rank 0's side: a thread that looks for requests, and one for each transfer."""

    def __init__(self, way: TransferContext, log: Callable[[str], None]) -> None:
        self._way, self._log = way, log
        self._stop = threading.Event()
        self._sizes: dict[str, int] = {}
        """Of the shards that were hashed and are what the plan says, by sha256."""
        self._hashing = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="shards for other ranks", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        with contextlib.suppress(PeerLostError, UserError):  # the store is gone: others say so
            board = self._way.board()
            requests = ListReader(board, REQUESTS, self._way.plan.runtime.detect_s)
            while not self._stop.wait(SERVE_POLL_S):
                for text in filter(None, requests.new(time.monotonic())):
                    request = Request(**json.loads(text))
                    threading.Thread(target=self._serve, args=(request,), name="send shard", daemon=True).start()

    def _serve(self, request: Request) -> None:
        with contextlib.suppress(PeerLostError):  # the rank that asked is gone: it asks again
            board = self._way.board()
            stage = next((item for item in stages_of(self._way.plan, request.rank) if item.sha256 == request.sha256),
                         None)  # fmt: skip
            answer = self._answer(request, stage)
            board.put(_answer_key(request), json.dumps(asdict(answer)))
            if stage is None or answer.error or request.offset >= answer.num_bytes:
                return
            self._log(f"sending {stage.shard} ({format_bytes(answer.num_bytes - request.offset)}) to "
                      f"{rank_name(self._way.plan, request.rank)}, which lacks it")  # fmt: skip
            with self._way.group(board, request) as group, (self._way.folder / stage.shard).open("rb") as file:
                self._send(group, file, request.offset, answer.num_bytes)

    def _answer(self, request: Request, stage: Stage | None) -> Answer:
        name = rank_name(self._way.plan, 0)
        if stage is None:
            return Answer(num_bytes=0, error=f"{name} has another plan, without this shard: copy the same to both")
        try:
            with self._hashing:
                if stage.sha256 not in self._sizes:
                    check_shard(self._way.plan, stage, self._way.folder)
                    self._sizes[stage.sha256] = (self._way.folder / stage.shard).stat().st_size
        except UserError as error:
            return Answer(num_bytes=0, error=f"{name} cannot send it: {error}")
        return Answer(num_bytes=self._sizes[stage.sha256])

    def _send(self, group: GlooGroup, file: IO[bytes], offset: int, num_bytes: int) -> None:
        file.seek(offset)
        under_way: deque[tuple[dist.Work, torch.Tensor]] = deque()
        with _other_end(1):
            for size in piece_sizes(num_bytes, offset):
                if len(under_way) == WINDOW:
                    under_way.popleft()[0].wait(self._way.silence)
                piece = torch.zeros(size, dtype=torch.uint8)
                if file.readinto(piece.numpy()) != size:  # type: ignore[attr-defined]
                    return  # the file changed: the other end notices that nothing more comes
                under_way.append((group.send([piece], 1, TAG), piece))
            for work, _ in under_way:
                work.wait(self._way.silence)
            # gone only once the other end has all of it
            group.recv([torch.zeros(1, dtype=torch.uint8)], 1, TAG + 1).wait(self._way.silence)


def _answer_key(request: Request) -> str:
    return f"{REQUESTS}-answer/{request.token}"


# --- the rank that lacks one -----------------------------------------------------------------------------------------


def fetch_shards(way: TransferContext, stages: list[Stage], log: Callable[[str], None]) -> None:
    """Gets the shards of these stages into the plan's folder, each whole or not at all.

    Raises:
        UserError: rank 0 cannot give one, there is no room for it, or the connection breaks again and again.
        PeerLostError: the store does not answer.
    """
    board = way.board()
    for stage in stages:
        _Fetch(way, stage, board, log).run()


class _Fetch:
    def __init__(self, way: TransferContext, stage: Stage, board: Board, log: Callable[[str], None]) -> None:
        self._way, self._stage, self._board, self._log = way, stage, board, log
        self._path = way.folder / stage.shard
        # named by what it is to be, so that another plan's beginning is not resumed
        self._part = self._path.with_name(f".{self._path.name}.{stage.sha256[:16]}.part")
        self._told = 0.0

    def run(self) -> None:
        failed = 0
        while True:
            before = self._there()
            try:
                if self._attempt(before):
                    return
                reason = "the received file is not the one that the plan names"
            except PeerLostError as error:
                reason = str(error).partition("\n")[0]
            except OSError as error:
                raise UserError(f"{self._part}: cannot be written: {error.strerror or error}: make room, or let this "
                                "user write there") from None  # fmt: skip
            failed = 1 if self._there() > before else failed + 1
            if failed >= NUM_ATTEMPTS:
                raise UserError(
                    f"{self._path}: could not be fetched from rank 0 in {NUM_ATTEMPTS} attempts ({reason}): copy it "
                    "from where the plan was compiled"
                )

    def _there(self) -> int:
        try:
            return self._part.stat().st_size
        except FileNotFoundError:
            return 0

    def _attempt(self, offset: int) -> bool:
        """Whether the shard is there now; what is wrong is removed, what is right of a broken transfer stays."""
        request = Request(rank=self._way.rank, token=secrets.token_hex(8), sha256=self._stage.sha256, offset=offset)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._board.append(REQUESTS, json.dumps(asdict(request)))
        num_bytes = self._await_answer(request)
        if offset < num_bytes:
            self._check_room(num_bytes - offset)
            begin = time.monotonic()
            gone_on = f", resuming after {format_bytes(offset)}" if offset else ""
            self._log(f"fetching {self._stage.shard} ({format_bytes(num_bytes)}) from rank 0{gone_on}")
            with self._way.group(self._board, request) as group, self._part.open("ab") as file:
                self._receive(group, file, offset, num_bytes)
            taken_s = time.monotonic() - begin
            rate = (num_bytes - offset) / max(taken_s, 1e-9)
        if file_sha256(self._part) != self._stage.sha256:
            self._part.unlink()
            return False
        self._part.replace(self._path)
        if offset < num_bytes:
            self._log(f"fetched {self._stage.shard} in {taken_s:.1f} s ({format_bytes(rate)}/s), sha256 as planned")
        return True

    def _await_answer(self, request: Request) -> int:
        deadline = time.monotonic() + HASHING_S
        while (text := self._board.get(_answer_key(request))) is None:
            if time.monotonic() > deadline:
                raise PeerLostError(0, "rank 0 does not answer")
            time.sleep(POLL_S)
        answer = Answer(**json.loads(text))
        if answer.error:
            raise UserError(f"{self._path}: this rank lacks it, and {answer.error}")
        return answer.num_bytes

    def _check_room(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self._path.parent).free
        if free < num_bytes + SPARE_BYTES:
            sizes = f"{format_bytes(num_bytes)} to come, {format_bytes(free)} free"
            raise UserError(f"{self._path}: not enough space to fetch it: {sizes}: free some")

    def _receive(self, group: GlooGroup, file: IO[bytes], offset: int, num_bytes: int) -> None:
        sizes = piece_sizes(num_bytes, offset)
        posted: deque[tuple[dist.Work, torch.Tensor]] = deque()
        done = offset
        self._told = time.monotonic()

        def post() -> None:
            size = next(sizes, 0)
            if size:
                piece = torch.zeros(size, dtype=torch.uint8)
                posted.append((group.recv([piece], 0, TAG), piece))

        with _other_end(0):
            for _ in range(WINDOW):
                post()
            while posted:
                work, piece = posted.popleft()
                work.wait(self._way.silence)
                data: Any = piece.numpy()
                file.write(data)
                done += len(data)
                post()
                self._tell(done, num_bytes)
            file.flush()
            group.send([torch.zeros(1, dtype=torch.uint8)], 0, TAG + 1).wait(self._way.silence)

    def _tell(self, done: int, num_bytes: int) -> None:
        now = time.monotonic()
        if now - self._told > TELL_S:
            self._told = now
            share = f"{format_bytes(done)} of {format_bytes(num_bytes)} ({done / num_bytes:.0%})"
            self._log(f"fetching {self._stage.shard}: {share}")
