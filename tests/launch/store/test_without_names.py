"""Ranks meet where no name server answers, as in a network that has none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MEET = """
import socket, threading
questions, silent = [], socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.53", 53))

def listen():
    while True:
        questions.append(silent.recv(512))

threading.Thread(target=listen, daemon=True).start()
from datetime import timedelta
from edgelaunch.composition import quiet_peers
quiet_peers()
from torch._C._distributed_c10d import TCPStore
server = TCPStore("10.99.0.1", 0, None, True, timedelta(seconds=60), False)
client = TCPStore("10.99.0.1", server.port, None, False, timedelta(seconds=60), False)
client.set("met", "yes")
print(server.get("met").decode(), len(questions) - len(set(questions)))
"""


@pytest.mark.slow
def test_a_name_is_asked_for_once(tmp_path: Path) -> None:
    """And not again after 5 s, as resolvers do by default."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root, Linux and iproute2, for a network of its own")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "meet.py").write_text(MEET)
    commands = (
        "ip link set lo up && ip address add 10.99.0.1/32 dev lo && "
        'mount --bind "$1/resolv.conf" /etc/resolv.conf && exec "$2" "$1/meet.py"'
    )
    words = ["unshare", "--net", "--mount", "sh", "-c", commands, "sh", str(tmp_path), sys.executable]
    environ = {name: value for name, value in os.environ.items() if name != "RES_OPTIONS"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environ, check=False)
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"needs namespaces: {done.stderr.strip()}")
    assert done.stdout.split() == ["yes", "0"], done.stderr
