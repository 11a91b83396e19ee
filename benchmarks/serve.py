"""What HTTP costs: `edgelaunch serve` beside `edgelaunch --input` and beside the Python API, on this machine.

    python benchmarks/serve.py                               # deit_tiny on two local ranks
    python benchmarks/serve.py --plan outputs/plan.yaml --rounds 5 --malformed 1000

Measured in one run, the two sides of each figure in turn:

- throughput: 32 clients, each with one item a request as .npy, over the steady rate of `--input` with the same items
  (target 0.95);
- work: processor time an item of all ranks and the clients, beside that of `--input`'s ranks: what the throughput would
  be on a machine with nothing else to do, where its cores are all busy;
- latency: the median of one client that asks for one item after another, less that of `Pipeline.submit` (target 3 ms);
- malformed requests, each different: all are to be answered with 4xx and one line in an error object;
- memory: rank 0's after the load and after the malformed requests, over that after the first hundred.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from commands import run
from processes import figures

from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan

CLIENTS = 32
TARGET_SHARE, TARGET_MS = 0.95, 3.0
WARM = 100
"""Requests before anything is measured."""


class Service:
    def __init__(self, plan: Path, *more: str) -> None:
        words = [sys.executable, "-m", "edgelaunch", "serve", str(plan), "--local", "--port", "0", "--json", "--quiet"]
        self.process = subprocess.Popen([*words, *more], stdout=subprocess.PIPE, text=True, cwd=tempfile.gettempdir())
        assert self.process.stdout is not None
        self.port = int(json.loads(self.process.stdout.readline())["url"].rpartition(":")[2])

    def cpu_s(self) -> float:
        """Of all its ranks so far."""
        return sum(map(cpu_s, (self.process.pid, *descendants(self.process.pid))))

    def memory(self) -> int:
        found = figures(self.process.pid)
        assert found is not None
        return found.anonymous_bytes

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0


def descendants(process: int) -> list[int]:
    children = [int(word) for path in Path(f"/proc/{process}/task").glob("*/children")
                for word in path.read_text().split()]  # fmt: skip
    return children + [other for child in children for other in descendants(child)]


def cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_cpu_s(who: int = resource.RUSAGE_SELF) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def items_of(plan: Plan, count: int) -> np.ndarray:
    """For the one input that the model has."""
    (spec,) = plan.inputs
    generator = np.random.default_rng(0)
    shape = (count, *spec.shape[1:])
    if spec.dtype == "uint8":
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.standard_normal(shape).astype(spec.dtype)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def request(body: bytes, kind: str, path: str = "/v1/predict") -> bytes:
    head = (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-npy\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")  # fmt: skip
    return head.encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


async def client(port: int, requests: list[bytes], until: float, done: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.perf_counter() < until:
        writer.write(requests[number % len(requests)])
        status, body = await answer(reader)
        assert status == 200, body
        done.append(time.perf_counter())
        number += 1
    writer.close()


async def throughput(port: int, requests: list[bytes], seconds: float, done: list[float]) -> float:
    """Items a second of all clients, without the first fifth of the time. `done`: gets when each came."""
    begin = time.perf_counter()
    await asyncio.gather(*(client(port, requests, begin + seconds, done) for _ in range(CLIENTS)))
    counted = [at for at in done if begin + seconds / 5 <= at <= begin + seconds]
    return (len(counted) - 1) / (counted[-1] - counted[0])


async def latencies(port: int, requests: list[bytes], count: int) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    for number in range(count):
        begin = time.perf_counter()
        writer.write(requests[number % len(requests)])
        status, body = await answer(reader)
        found.append(time.perf_counter() - begin)
        assert status == 200, body
    writer.close()
    return found


def pipeline_latencies(plan: Path, count: int) -> list[float]:
    """In a process of its own, which does nothing else."""
    code = (
        "import json, sys, time, numpy as np\n"
        "from edgecompile.execution.allocator import restart_with_heap_environment\n"
        "restart_with_heap_environment()\n"
        "from edgelaunch import Pipeline\n"
        "items, found = np.load(sys.argv[2]), []\n"
        "with Pipeline(sys.argv[1], local=True) as pipeline:\n"
        "    for number in range(int(sys.argv[3])):\n"
        "        begin = time.perf_counter()\n"
        "        pipeline.submit(items[number % len(items)]).result()\n"
        "        found.append(time.perf_counter() - begin)\n"
        "print(json.dumps(found))\n"
    )
    script = plan.with_name("latencies.py")
    script.write_text(code)
    words = [sys.executable, str(script), str(plan), str(plan.with_name("few.npy")), str(count)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, cwd=plan.parent)
    found: list[float] = json.loads(done.stdout)
    return found


# --- malformed requests ------------------------------------------------------------------------------------------


def malformed(plan: Plan, good: bytes, chance: random.Random) -> bytes:
    """One that no service may answer with a result."""
    name = plan.inputs[0].name
    cut = good[: chance.randrange(len(good) - 1)]
    shape = list(plan.inputs[0].shape[1:])
    shape[chance.randrange(len(shape))] += chance.randint(1, 3)
    depth = chance.randint(1, 100_000)
    noise = chance.randbytes(chance.randint(0, 2000))
    word = "".join(chance.choices("abcdefgh", k=chance.randint(1, 20)))
    kinds: list[tuple[bytes, str]] = [
        (cut, "application/x-npy"), (noise, "application/x-npy"), (noise, "application/x-safetensors"),
        (len(noise).to_bytes(8, "little") + noise, "application/x-safetensors"), (noise, "image/png"),
        (noise, f"multipart/form-data; boundary={word}"), (good, f"application/{word}"),
        (npy(np.zeros((chance.randint(0, 3), *shape), plan.inputs[0].dtype)), "application/x-npy"),
        (b"[" * depth, "application/json"), (b'{"inputs":' * depth, "application/json"),
        (b"\xff" + noise, "application/json"),
        (json.dumps({word: chance.random()}).encode(), "application/json"),
        (json.dumps({"inputs": {name: [[chance.random()] * chance.randint(0, 9)]}}).encode(), "application/json"),
        (json.dumps({"items": [chance.choice([None, True, word, {}, {word: 1}, chance.random()])]}).encode(),
         "application/json"),
        (b'{"inputs": {"' + name.encode() + b'": [' + b"9" * chance.randint(1, 6000) + b"]}}", "application/json"),
        (b'{"inputs": {"' + name.encode() + b'": [NaN]}}', "application/json"),
    ]  # fmt: skip
    body, kind = chance.choice(kinds)
    others = ["/v1/embeddings", "/v1/completions", "/v1/chat/completions", f"/{word}"]
    return request(body, kind, chance.choice(["/v1/predict"] * 8 + others))


async def answered_with_4xx(port: int, plan: Plan, good: bytes, count: int, seed: int) -> list[str]:
    """Those that were not, in words."""
    chance, wrong = random.Random(seed), []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(count):
        writer.write(malformed(plan, good, chance))
        status, body = await answer(reader)
        try:
            message = json.loads(body)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = ""
        if not 400 <= status < 500 or not message or "\n" in message:
            wrong.append(f"request {number}: {status} {body[:200]!r}")
    writer.close()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, help="of a model with one input, else deit_tiny is compiled")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement of throughput")
    parser.add_argument("--malformed", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgebench-") as scratch:
        path = args.plan
        if path is None:
            run("edgecompile.commands.compile_command", "model=deit_tiny", "devices=local", "hosts.count=2",
                f"output_dir={scratch}")  # fmt: skip
            path = Path(scratch) / "plan.yaml"
        return measure(path.resolve(), Path(scratch), args)


def measure(path: Path, folder: Path, args: argparse.Namespace) -> int:
    plan = read_plan(path)
    few = items_of(plan, 16)
    np.save(path.with_name("few.npy"), few)
    requests = [request(npy(item[None]), "application/x-npy") for item in few]
    shares, rates, waits, bare, works = [], [], [], [], []
    load = os.getloadavg()[0]
    print(f"{plan.model.name}, microbatch {plan.model.microbatch}, {len(plan.stages)} stages; load {load:.1f}")
    for _ in range(args.rounds):
        alone = run_input(path, folder, plan, args.seconds, rates[-1] if rates else None)
        service = Service(path)
        try:
            asyncio.run(latencies(service.port, requests, WARM))
            done: list[float] = []
            ranks_s, clients_s = service.cpu_s(), own_cpu_s()
            rates.append(asyncio.run(throughput(service.port, requests, args.seconds, done)))
            works.append(((service.cpu_s() - ranks_s) / len(done), (own_cpu_s() - clients_s) / len(done)))
            waits += asyncio.run(latencies(service.port, requests, 2 * WARM))[WARM:]
        finally:
            service.stop()
        bare += pipeline_latencies(path, 2 * WARM)[WARM:]
        shares.append(rates[-1] / alone)
        print(f"{CLIENTS} clients {rates[-1]:.1f} items/s, --input {alone:.1f}: {shares[-1]:.3f}", flush=True)
    share, more_ms = statistics.median(shares), (statistics.median(waits) - statistics.median(bare)) * 1e3
    ranks, clients = (statistics.median(column) for column in zip(*works, strict=True))
    alone_s = work_of_input(path, folder, plan, 800)
    print(f"work: {ranks * 1e3:.2f} ms an item and {clients * 1e3:.2f} ms of the clients, --input {alone_s * 1e3:.2f} "
          f"ms: {alone_s / (ranks + clients):.3f}, without the clients {alone_s / ranks:.3f}")  # fmt: skip
    print(f"throughput: {share:.3f} of --input's (target {TARGET_SHARE}) {verdict(share >= TARGET_SHARE)}")
    print(f"latency: {statistics.median(waits) * 1e3:.2f} ms, the pipeline's {statistics.median(bare) * 1e3:.2f} ms: "
          f"{more_ms:+.2f} ms (target {TARGET_MS}) {verdict(more_ms <= TARGET_MS)}")  # fmt: skip
    well = endure(path, plan, requests, args)
    return int(not (well and share >= TARGET_SHARE and more_ms <= TARGET_MS))


def work_of_input(path: Path, folder: Path, plan: Plan, count: int) -> float:
    """Processor time an item: a long run's less a short one's."""
    used = []
    for number in (count // 8, count):
        before = own_cpu_s(resource.RUSAGE_CHILDREN)
        run_items(path, folder, plan, number)
        used.append(own_cpu_s(resource.RUSAGE_CHILDREN) - before)
    return (used[1] - used[0]) / (count - count // 8)


def run_input(path: Path, folder: Path, plan: Plan, seconds: float, rate: float | None) -> float:
    """The steady rate of so many items as take about so long."""
    return run_items(path, folder, plan, max(64, round(seconds * (rate or plan.predicted.throughput_items_per_s))))


def run_items(path: Path, folder: Path, plan: Plan, count: int) -> float:
    np.save(folder / "items.npy", items_of(plan, min(count, 2000)))
    run("edgelaunch", path, "--local", "--quiet", "--input", folder / "items.npy", "--output", folder / "out.npy",
        "--run", folder / "run.json")  # fmt: skip
    return float(json.loads((folder / "run.json").read_text())["steady_items_per_s"])


def endure(path: Path, plan: Plan, requests: list[bytes], args: argparse.Namespace) -> bool:
    service = Service(path)
    try:
        asyncio.run(latencies(service.port, requests, WARM))
        asyncio.run(throughput(service.port, requests, args.seconds, []))
        asyncio.run(answered_with_4xx(service.port, plan, requests[0].partition(b"\r\n\r\n")[2], 500, 1))
        before = service.memory()
        wrong = asyncio.run(
            answered_with_4xx(service.port, plan, requests[0].partition(b"\r\n\r\n")[2], args.malformed, 2)
        )
        middle = service.memory()
        asyncio.run(throughput(service.port, requests, args.seconds, []))
        after = service.memory()
        asyncio.run(latencies(service.port, requests, 1))
    finally:
        service.stop()
    print(f"malformed: {args.malformed - len(wrong):,} of {args.malformed:,} answered with 4xx and one line "
          f"{verdict(not wrong)}", *wrong[:5], sep="\n  ")  # fmt: skip
    print(f"memory of rank 0: {before / 1e6:.0f} MB, {middle / 1e6:.0f} MB after these, {after / 1e6:.0f} MB after "
          "more load")  # fmt: skip
    return not wrong


def verdict(well: Any) -> str:
    return "ok" if well else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
