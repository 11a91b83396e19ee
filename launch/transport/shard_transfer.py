"""Sends missing or stale shards and weights from rank 0 to a rank, over a process group of the two.

The rank asks in the store, where what it says bears the shared secret. Rank 0 gives each rank its own files and no
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_bytes
from edgecompile.execution.message_layout import piece_sizes
from edgelaunch.common.failures import PeerLostError, rank_name
from edgelaunch.common.identity import Endpoint
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.common.shard_files import StageFile, check_stage_file, files_of
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
    files: tuple[str, ...]
    """Their sha256, in the order in which they are sent."""
    offset: int
    """So many bytes of the first one are there already."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    sizes: tuple[int, ...] = ()
    """Of the files, in bytes."""
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
            known = {file.sha256: file for file in files_of(self._way.plan, request.rank)}
            files = [known[sha256] for sha256 in request.files if sha256 in known]
            answer = self._answer(files, complete=len(files) == len(request.files))
            board.put(_answer_key(request), json.dumps(asdict(answer)))
            to_come = sum(answer.sizes) - request.offset
            if answer.error or not files or to_come <= 0 or request.offset > answer.sizes[0]:
                return
            to = f"to {rank_name(self._way.plan, request.rank)}, which lacks {'them' if files[1:] else 'it'}"
            self._log(f"sending {_named(files)} ({format_bytes(to_come)}) {to}")
            with self._way.group(board, request) as group:
                for place, (file, num_bytes) in enumerate(zip(files, answer.sizes, strict=True)):
                    with (self._way.folder / file.name).open("rb") as opened:
                        self._send(group, opened, 0 if place else request.offset, num_bytes)

    def _answer(self, files: Sequence[StageFile], *, complete: bool) -> Answer:
        name = rank_name(self._way.plan, 0)
        if not complete:
            return Answer(error=f"{name} has another plan, without this shard: copy the same to both")
        try:
            with self._hashing:
                for file in files:
                    if file.sha256 not in self._sizes:
                        check_stage_file(self._way.plan, file, self._way.folder)
                        self._sizes[file.sha256] = (self._way.folder / file.name).stat().st_size
        except UserError as error:
            return Answer(error=f"{name} cannot send it: {error}")
        return Answer(sizes=tuple(self._sizes[file.sha256] for file in files))

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


def _named(files: Sequence[StageFile]) -> str:
    """The shard, which is the last one, with the number of weights files; or what there is."""
    name, others = files[-1].name, len(files) - 1
    return f"{name} and {others} file{'s' if others > 1 else ''} of weights" if others else name


# --- the rank that lacks one -----------------------------------------------------------------------------------------


def fetch_shards(way: TransferContext, files: Sequence[StageFile], log: Callable[[str], None]) -> None:
    """Gets these files into the plan's folder, each whole or not at all.

    Raises:
        UserError: rank 0 cannot give one, there is no room for it, or the connection breaks again and again.
        PeerLostError: the store does not answer.
    """
    _Fetch(way, files, way.board(), log).run()


class _Fetch:
    def __init__(
        self, way: TransferContext, files: Sequence[StageFile], board: Board, log: Callable[[str], None]
    ) -> None:
        self._way, self._left, self._board, self._log = way, deque(files), board, log
        self._all = tuple(files)
        self._told = 0.0

    def _path(self) -> Path:
        """Where the next file goes."""
        return self._way.folder / self._left[0].name

    def _part(self) -> Path:
        """Named by what it is to be, so that another plan's beginning is not resumed."""
        path = self._path()
        return path.with_name(f".{path.name}.{self._left[0].sha256[:16]}.part")

    def run(self) -> None:
        failed = 0
        while self._left:
            before = self._there()
            try:
                self._attempt(before[1])
                reason = "the received file is not the one that the plan names"
            except PeerLostError as error:
                reason = str(error).partition("\n")[0]
            except OSError as error:
                raise UserError(f"{self._part()}: cannot be written: {error.strerror or error}: make room, or let this "
                                "user write there") from None  # fmt: skip
            if not self._left:
                return
            failed = 1 if self._there() > before else failed + 1
            if failed >= NUM_ATTEMPTS:
                raise UserError(
                    f"{self._path()}: could not be fetched from rank 0 in {NUM_ATTEMPTS} attempts ({reason}): copy it "
                    "from where the plan was compiled"
                )

    def _there(self) -> tuple[int, int]:
        """How many files are there, and how many bytes of the next one."""
        done = len(self._all) - len(self._left)
        try:
            return done, self._part().stat().st_size
        except FileNotFoundError:
            return done, 0

    def _attempt(self, offset: int) -> None:
        """Gets what it can; what is wrong is removed, what is right of a broken transfer stays."""
        files = tuple(self._left)
        request = Request(rank=self._way.rank, token=secrets.token_hex(8),
                          files=tuple(file.sha256 for file in files), offset=offset)  # fmt: skip
        self._path().parent.mkdir(parents=True, exist_ok=True)
        self._board.append(REQUESTS, json.dumps(asdict(request)))
        sizes = self._await_answer(request)
        to_come = sum(sizes) - offset
        if offset > sizes[0] or to_come <= 0:  # of another file, or all is there
            self._settle(sizes[0])
            return
        self._check_room(to_come)
        begin = time.monotonic()
        gone_on = f", resuming after {format_bytes(offset)}" if offset else ""
        self._log(f"fetching {_named(files)} ({format_bytes(to_come)}) from rank 0{gone_on}")
        with self._way.group(self._board, request) as group:
            for place, num_bytes in enumerate(sizes):
                self._path().parent.mkdir(parents=True, exist_ok=True)
                with self._part().open("wb" if place else "ab") as file:  # only of the first what is there counts
                    self._receive(group, file, 0 if place else offset, num_bytes)
                if not self._settle(num_bytes):
                    return
        taken_s = time.monotonic() - begin
        rate = format_bytes(to_come / max(taken_s, 1e-9))
        self._log(f"fetched {_named(files)} in {taken_s:.1f} s ({rate}/s), sha256 as planned")

    def _settle(self, num_bytes: int) -> bool:
        """Whether what came is the file that the plan names, which now is in its place."""
        part = self._part()
        if num_bytes == 0:
            part.touch()
        if file_sha256(part) != self._left[0].sha256:
            part.unlink()
            return False
        part.replace(self._path())
        self._left.popleft()
        return True

    def _await_answer(self, request: Request) -> tuple[int, ...]:
        deadline = time.monotonic() + HASHING_S
        while (text := self._board.get(_answer_key(request))) is None:
            if time.monotonic() > deadline:
                raise PeerLostError(0, "rank 0 does not answer")
            time.sleep(POLL_S)
        answer = Answer(**json.loads(text))
        if answer.error:
            raise UserError(f"{self._path()}: this rank lacks it, and {answer.error}")
        return tuple(answer.sizes)

    def _check_room(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self._path().parent).free
        if free < num_bytes + SPARE_BYTES:
            sizes = f"{format_bytes(num_bytes)} to come, {format_bytes(free)} free"
            raise UserError(f"{self._path()}: not enough space to fetch it: {sizes}: free some")

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
            self._log(f"fetching {self._left[0].name}: {share}")
