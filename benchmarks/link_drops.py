"""Takes the link between two ranks down while a stream runs; checks every result. Linux, root.

    python benchmarks/link_drops.py [--seconds 1,5,60] [--detect 10]

A rank that ends because it lost contact with rank 0 is started again, as systemd would.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from kills import EDGELAUNCH, check, compile_tiny, row
from processes import share_a_secret
from slow_link import SlowLink, slow_link, why_not

RATE = 20
PATIENCE_S = 240.0


class Restarted:
    """A rank that is started again whenever it ends with a clear message."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self.num_starts = 0
        self.said: list[str] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        code = 2
        while code == 2 and self.num_starts < 20:
            self.num_starts += 1
            self.process = subprocess.Popen(self._words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self.said += self.process.communicate()[1].splitlines()
            code = self.process.returncode


def drop(link: SlowLink, folder: Path, seconds: float, detect_s: float) -> None:
    model = compile_tiny(folder, 2, contingency=False, detect_s=detect_s, rejoin_s=seconds + 60)
    count = int(RATE * (seconds + 30))
    np.save(folder / "x.npy", np.stack([row(index) for index in range(count)]))
    words = [*EDGELAUNCH, str(folder / "plan.yaml"), "--master", f"{link.address[0]}:29500"]
    data = ["--input", str(folder / "x.npy"), "--output", str(folder / "y.jsonl"), "--rate", str(RATE)]
    first = subprocess.Popen([*link.prefix[0], *words, "--rank", "0", *data], stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)  # fmt: skip
    second = Restarted([*link.prefix[1], *words, "--rank", "1"])
    try:
        rows, deadline = folder / "y.jsonl.partial" / "rows.jsonl", time.monotonic() + PATIENCE_S
        while not (rows.exists() and rows.read_bytes().count(b"\n") >= 40):
            assert time.monotonic() < deadline, "no results"
            time.sleep(0.02)
        for state in ("down", "up"):
            subprocess.run([*link.prefix[1], "ip", "link", "set", link.interface[1], state], check=True)
            time.sleep(seconds if state == "down" else 0.0)
        try:
            text = first.communicate(timeout=PATIENCE_S)[1]
        except subprocess.TimeoutExpired:
            first.kill()
            text = first.communicate()[1] + f"no end in {PATIENCE_S:g} s\n"
        assert first.returncode == 0, text + "\n".join(second.said)
        second.thread.join(30)
    finally:
        for process in (first, second.process):
            process.kill()
    check(folder / "y.jsonl", model, count)
    lost = [line for line in text.splitlines() if "stopped answering" in line or "is gone" in line]
    print(f"link down for {seconds:g} s: {count} results, each once, in order and equal; rank 1 was started "
          f"{second.num_starts} times; rank 0 said: {lost[0] if lost else 'nothing'}", flush=True)  # fmt: skip


def main() -> None:
    share_a_secret()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", default="1,5,60")
    parser.add_argument("--detect", type=float, default=10.0, help="seconds: runtime.detect")
    arguments = parser.parse_args()
    reason = why_not()
    if reason is not None:
        raise SystemExit(reason)
    folder = Path(tempfile.mkdtemp(prefix="drops-"))
    try:
        for index, word in enumerate(arguments.seconds.split(",")):
            with slow_link("100mbit") as link:
                drop(link, folder / str(index), float(word), arguments.detect)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
