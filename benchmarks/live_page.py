"""What the live page and `edgelaunch top` cost: first paint in Chromium, bytes, and rank 0's processor time. Linux.

    python benchmarks/live_page.py                           # a tiny plan in two local ranks that do nothing
    python benchmarks/live_page.py --plan outputs/plan.yaml --seconds 30

- first paint and first contentful paint of `/`, from the beginning of the navigation, median of several fresh tabs of
  headless Chromium (target 1 s), and the page's bytes (target 200 kB);
- rank 0's processor time, of one core, with nobody there, with 10 updates of the page a second (target 2 % more), and
  with a watcher through a file, at most 5 updates a second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "launch"))
import launch_plans

sys.path.pop(0)

UPDATES_PER_S = 10.0
TARGET_S, TARGET_BYTES, TARGET_SHARE = 1.0, 200_000, 0.02
PAINTS = "JSON.stringify(performance.getEntriesByType('paint').map(entry => [entry.name, entry.startTime]))"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class Browser:
    """Headless Chromium, told what to do through a pipe."""

    def __init__(self, folder: str) -> None:
        assert CHROMIUM is not None
        asked, answers = os.pipe(), os.pipe()
        words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--no-first-run", f"--user-data-dir={folder}/profile", "--remote-debugging-pipe"]  # fmt: skip
        script = f'exec "$@" 3<&{asked[0]} 4>&{answers[1]}'
        self.process = subprocess.Popen(
            ["sh", "-c", script, "sh", *words], stderr=subprocess.DEVNULL, pass_fds=(asked[0], answers[1]),
            env={**os.environ, "HOME": folder},
        )  # fmt: skip
        os.close(asked[0])
        os.close(answers[1])
        self._ask, self._answers, self._number = os.fdopen(asked[1], "wb", 0), os.fdopen(answers[0], "rb"), 0
        self._rest = b""

    def call(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        self._ask.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._answers.fileno(), 1 << 16)
            assert piece, "chromium ended"
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found

    def paints(self, url: str) -> dict[str, float]:
        """Milliseconds since the navigation began, in a tab of its own."""
        target = self.call("Target.createTarget", url=url)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        deadline = time.monotonic() + 30
        while True:
            value = self.call("Runtime.evaluate", session, expression=PAINTS)["result"].get("value", "[]")
            found = dict(json.loads(value))
            if "first-contentful-paint" in found:
                break
            assert time.monotonic() < deadline, "nothing was painted in 30 s"
            time.sleep(0.05)
        self.call("Target.closeTarget", targetId=target)
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def used_s(process: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(process: int, seconds: float, work: Callable[[], object], every_s: float) -> tuple[float, float]:
    """Of one core, what the process took while `work` was done so often; and how often a second it was."""
    begin, before, count = time.monotonic(), used_s(process), 0
    while time.monotonic() - begin < seconds:
        work()
        count += 1
        time.sleep(max(0.0, begin + count * every_s - time.monotonic()))
    elapsed = time.monotonic() - begin
    return (used_s(process) - before) / elapsed, count / elapsed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--tabs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = arguments.plan or launch_plans.floats(Path(folder) / "plan").path
        words = [sys.executable, "-m", "edgelaunch", "serve", str(plan), "--local", "--port", "0", "--json", "--quiet"]
        service = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert service.stdout is not None
            measure(service.pid, json.loads(service.stdout.readline())["url"], str(plan), arguments, folder)
        finally:
            service.terminate()
            service.wait(60)
    return 0


def measure(process: int, url: str, plan: str, arguments: argparse.Namespace, folder: str) -> None:
    size = len(urllib.request.urlopen(f"{url}/").read())
    print(f"page: {size:,} bytes (target {TARGET_BYTES:,})", flush=True)
    if CHROMIUM is None:
        print("no chromium here: first paint is not measured")
    else:
        browser = Browser(folder)
        try:
            found = [browser.paints(url) for _ in range(arguments.tabs)]
        finally:
            browser.close()
        for name in ("first-paint", "first-contentful-paint"):
            times = sorted(paint[name] for paint in found if name in paint)
            print(f"{name}: median {statistics.median(times):.0f} ms, {times[0]:.0f} to {times[-1]:.0f} in "
                  f"{len(times)} tabs (target {TARGET_S * 1e3:.0f})", flush=True)  # fmt: skip
    time.sleep(1.0)
    idle, _ = share(process, arguments.seconds, lambda: None, 0.1)
    busy, per_s = share(process, arguments.seconds, lambda: urllib.request.urlopen(f"{url}/live/figures").read(),
                        1 / UPDATES_PER_S)  # fmt: skip
    print(f"rank 0, of one core: {idle:.2%} with nobody there, {busy:.2%} with {per_s:.1f} updates of the page a "
          f"second: {busy - idle:.2%} more (target {TARGET_SHARE:.0%})", flush=True)  # fmt: skip
    top = subprocess.Popen([sys.executable, "-m", "edgelaunch", "top", plan, "--json", "--every", "0.2"],
                           stdout=subprocess.DEVNULL)  # fmt: skip
    time.sleep(1.0)
    watched, _ = share(process, arguments.seconds, lambda: None, 0.1)
    top.terminate()
    top.wait()
    print(f"rank 0, watched by edgelaunch top: {watched:.2%}, {watched - idle:.2%} more", flush=True)


if __name__ == "__main__":
    sys.exit(main())
