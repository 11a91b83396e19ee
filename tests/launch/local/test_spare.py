"""The process that forks a rank again once its parent has threads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from launch_harness import DEADLINE_S

from edgelaunch.local.forked import Spare

SCRIPT = """
import os, signal, sys, threading
from edgelaunch.local.forked import ForkServer

def run(words):
    os._exit(9)

def again(words):
    print(*words, os.read(int(words[1]), 9).decode(), flush=True)
    if words[0] == "waits":
        threading.Event().wait()
    os._exit(7)

server = ForkServer(run, again)
spare = server.spare()
assert spare is not None
threading.Thread(target=threading.Event().wait, daemon=True).start()
for name in ("first", "waits"):
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    child = spare.fork([name, str(reader)], (reader,))
    assert child is not None
    os.close(writer)
    print(child.stdout.readline().decode().split(), flush=True)
    if name == "first":
        print(child.wait(), child.stdout.read(), flush=True)
        continue
    assert child.poll() is None
    child.kill()
    print(child.wait(), flush=True)
"""


def test_ranks_are_forked_with_their_files_and_are_their_parents_children() -> None:
    command = [sys.executable, "-I", "-c", SCRIPT]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.returncode == 0, ended.stderr
    first, code, waits, signal = ended.stdout.splitlines()
    assert first.startswith("['first', ")
    assert waits.startswith("['waits', ")
    assert first.endswith("'hello']")
    assert waits.endswith("'hello']")
    assert (code, signal) == ("7 b''", "-9")  # a process waits for its own children alone


def test_a_spare_that_has_ended_forks_nothing() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    spare = Spare(ours)
    theirs.close()
    before = os.listdir("/proc/self/fd")
    assert spare.fork(["rank"], ()) is None
    assert spare.fork(["rank"], ()) is None
    assert len(os.listdir("/proc/self/fd")) == len(before) - 1


@pytest.mark.parametrize("answer", [b"", b"no"])
def test_what_a_spare_cannot_fork_is_none(answer: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        spare = Spare(ours)
        theirs.send(answer)
        assert spare.fork(["rank"], ()) is None
