"""The gloo process group and links of one epoch, which a rank can abandon and rebuild.

It owns its ProcessGroupGloo and does not use torch.distributed's global one: a failed init leaves that one's counters
advanced, so that ranks which tried a different number of times never meet again.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from edgecompile.contract.errors import UserError
from edgelaunch.common.failures import Abandoned, PeerLostError
from edgelaunch.common.identity import address_is_here, is_loopback, resolve
from edgelaunch.process.abandoned_threads import await_at_exit
from edgelaunch.transport.counters import Transfers
from edgelaunch.transport.links import Boundary, GlooGroup, Peer, ReceiveLink, SendLink

__all__ = ["Epoch", "Member", "local_address"]

NUM_GROUP_THREADS = 1
TAGS_A_BOUNDARY = 1 << 18
"""One for each piece of a megabyte of each of the receiver's buffers."""
TAG_NOBODY_SENDS = (1 << 31) - 1
ABANDON_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Member:
    """This rank's place in an epoch."""

    epoch: int
    rank: int
    group: tuple[int, ...]
    """The ranks of the epoch, in order."""
    peers: tuple[int, ...]
    """Those of the group that this rank has links to."""
    address: str
    """This machine's address on the network that the ranks share; gloo binds its interface."""
    timeout_s: float
    """For connecting; no message has a deadline."""


class Epoch:
    """All that connects this rank to the others between two changes of membership.

    Each pair of ranks with a link between them has a process group of its own: gloo connects all members of a group to
    each other, so that one group of all would not come about while any two hosts do not reach each other.
    """

    def __init__(self, store_of: Callable[[str], Store], member: Member, fail: Callable[[BaseException], None]) -> None:
        """Connects to the peers; each of them must be about to do the same.

        `store_of` gives a store of this epoch's own, by the name of the pair that meets in it; what it raises ends
        the attempt. `fail` is called from a link's thread with the exception that ended it.

        Raises:
            PeerLostError: a rank did not connect within the member's timeout; it may wait for another one.
        """
        gloo: Any = dist.ProcessGroupGloo  # torch's stubs leave out most of it
        options = gloo._Options()
        options._devices = [gloo.create_device(hostname=member.address)]
        options._timeout = timedelta(seconds=member.timeout_s)
        options._threads = NUM_GROUP_THREADS
        self._member, self._fail = member, fail
        self._groups: dict[int, GlooGroup] = {}
        self._links: list[SendLink | ReceiveLink] = []
        self._lock = threading.Lock()
        self._abandoned = False
        # all ranks go by the same order, so that those of the first pair that is not connected both wait at it
        for first, second in sorted((min(member.rank, peer), max(member.rank, peer)) for peer in member.peers):
            peer = second if first == member.rank else first
            try:
                self._groups[peer] = gloo(store_of(f"{first}-{second}"), int(first != member.rank), 2, options)
            except BaseException as error:
                self.abandon()
                if isinstance(error, RuntimeError):
                    raise PeerLostError(-1, str(error)) from error
                raise

    def group(self, peer: int) -> GlooGroup:
        """For messages outside of any plan; in it the lower rank of the two has number 0."""
        return self._groups[peer]

    def send_link(self, peer: int, number: int, boundary: Boundary, busy: Transfers | None = None) -> SendLink:
        """`number`: the boundary's. `busy`: the counter to continue with. Raises Abandoned where it was given up."""
        with self._lock:
            self._check()
            link = SendLink(self._peer(peer, number, boundary), boundary, busy)
            self._links.append(link)
        return link

    def receive_link(self, peer: int, number: int, boundary: Boundary, busy: Transfers | None = None) -> ReceiveLink:
        """As send_link."""
        with self._lock:
            self._check()
            link = ReceiveLink(self._peer(peer, number, boundary), boundary, busy)
            self._links.append(link)
        return link

    def _check(self) -> None:
        if self._abandoned:
            raise Abandoned

    def _peer(self, rank: int, number: int, boundary: Boundary) -> Peer:
        assert boundary.num_tags <= TAGS_A_BOUNDARY, f"{boundary.num_tags} pieces of buffers at boundary {number}"
        assert (number + 1) * TAGS_A_BOUNDARY <= TAG_NOBODY_SENDS, f"{number} boundaries"
        place = int(rank > self._member.rank)
        return Peer(group=self._groups[rank], rank=rank, place=place, tag=number * TAGS_A_BOUNDARY, fail=self._fail)

    def abandon(self, wait_s: float = ABANDON_S) -> None:
        """Gives everything up: threads that wait in a link get Abandoned, and those that wait in gloo an error.

        No function of the group ends a pending operation. A receive that times out does: gloo closes all connections.
        """
        with self._lock:
            self._abandoned = True
        for link in self._links:
            link.abandon()
        for peer, group in self._groups.items():
            with contextlib.suppress(RuntimeError):
                place = int(peer > self._member.rank)
                group.recv([torch.empty(1)], place, TAG_NOBODY_SENDS).wait(timedelta(milliseconds=1))
        for link in self._links:
            link.thread.join(wait_s)
            if link.thread.is_alive():
                await_at_exit(link.thread)


def local_address(plan_address: str, master_address: str) -> str:
    """This machine's address on the network that the ranks share.

    The plan's own, where it is this machine's; otherwise the one from which rank 0 is reached.

    Raises:
        UserError: rank 0 cannot be reached.
    """
    if is_loopback(master_address):
        return "127.0.0.1"
    for address in (plan_address, master_address):
        if address_is_here(address) and not is_loopback(address):
            return resolve(address) or address
    master = resolve(master_address) or master_address
    try:
        with socket.socket(socket.AF_INET6 if ":" in master else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((master, 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(
            f"cannot reach rank 0 at {master_address} from this machine ({error.strerror}): give --master ADDRESS:PORT"
        ) from None
