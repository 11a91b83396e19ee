"""What benchmarks/pipeline.py compares, each in processes of its own: one line in, `N`, one line out, N times.

    python benchmarks/contenders.py ROLE PLAN ...

A role answers each number N that it reads from stdin with a JSON list of N times: when each of N microbatches was
complete, in seconds of the monotonic clock, which all processes of a machine share. It ends with its stdin.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.execution.opened_shard import open_stage

Burst = Callable[[int], list[float]]


def serve(burst: Burst) -> None:
    """Answers on the stdout that the process was started with; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(burst(int(line))), file=answers, flush=True)


def golden_inputs(plan: Plan, folder: Path) -> tuple[torch.Tensor, ...]:
    """One microbatch of the plan's golden items."""
    from safetensors.torch import load_file

    tensors = load_file(folder / plan.golden.file)
    rows = [index % plan.golden.num_items for index in range(plan.model.microbatch)]
    return tuple(tensors[f"input.{spec.name}"][rows].contiguous() for spec in plan.inputs)


def load_stage(plan: Plan, folder: Path, number: int) -> Any:
    """As a rank has it: on some machines with its weights prepacked."""
    from edgelaunch.pipeline.stage_shard import load_shard

    return load_shard(plan.stages[number], folder, "cpu", plan.runtime.prepack)


def boundary_tensors(plan: Plan, folder: Path, number: int) -> tuple[torch.Tensor, ...]:
    """What stage `number` takes: the golden items through the stages before it."""
    values = golden_inputs(plan, folder)
    with torch.inference_mode():
        for earlier in range(number):
            values = load_stage(plan, folder, earlier)(*values)
    return tuple(value.clone() for value in values)


def timed(work: Callable[[], object], count: int) -> list[float]:
    times = []
    with torch.inference_mode():
        for _ in range(count):
            work()
            times.append(time.monotonic())
    return times


# --- roles -----------------------------------------------------------------------------------------------------------


def ours(args: argparse.Namespace, plan: Plan, folder: Path) -> None:
    """The pipeline of this project, this process its data host; rank 1 is started here, or runs at `--master`'s."""
    from edgelaunch import Pipeline

    inputs = golden_inputs(plan, folder)
    items = [
        {spec.name: tensor[index].numpy() for spec, tensor in zip(plan.inputs, inputs, strict=True)}
        for index in range(plan.model.microbatch)
    ]

    with Pipeline(args.plan, local=args.master is None, master=args.master) as pipeline:

        def burst(count: int) -> list[float]:
            stream = pipeline.stream(itertools.islice(itertools.cycle(items), count * len(items)))
            return [time.monotonic() for number, _ in enumerate(stream, 1) if number % len(items) == 0]

        serve(burst)


class Shard(nn.Module):
    """A TorchScript shard as torch.distributed.pipelining takes it; notes when each microbatch was complete."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.shard = module
        self.times: list[float] = []

    def forward(self, *inputs: torch.Tensor) -> Any:
        outputs = self.shard(*inputs)
        self.times.append(time.monotonic())
        return outputs if len(outputs) > 1 else outputs[0]


def pipelining(args: argparse.Namespace, plan: Plan, folder: Path) -> None:
    """The shards' files through torch.distributed.pipelining, forward only; the last rank's times count."""
    pipeline_of(args, plan, open_stage(plan.stages[args.stage], folder).run, folder)


def pipelining_prepacked(args: argparse.Namespace, plan: Plan, folder: Path) -> None:
    """The same with what our ranks make of these files."""
    pipeline_of(args, plan, load_stage(plan, folder, args.stage), folder)


def pipeline_of(args: argparse.Namespace, plan: Plan, module: Any, folder: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    number, num_stages = args.stage, len(plan.stages)
    dist.init_process_group("gloo", init_method=f"tcp://{args.master}", rank=number, world_size=num_stages)
    shard = Shard(module).eval()
    inputs = boundary_tensors(plan, folder, number)
    with torch.no_grad():
        outputs = shard(*inputs)
    stage = PipelineStage(shard, number, num_stages, torch.device("cpu"), input_args=inputs, output_args=outputs)

    def burst(count: int) -> list[float]:
        schedule = ScheduleGPipe(stage, n_microbatches=count)
        shard.times.clear()
        schedule.eval(*(torch.cat([tensor] * count) for tensor in inputs) if number == 0 else ())
        return shard.times[-count:]

    serve(burst)


def alone(args: argparse.Namespace, plan: Plan, folder: Path) -> None:
    """One shard by itself, again and again: no pipeline can be faster than its slowest."""
    shard = load_stage(plan, folder, args.stage)
    inputs = boundary_tensors(plan, folder, args.stage)

    serve(lambda count: timed(lambda: shard(*inputs), count))


def eager(args: argparse.Namespace, plan: Plan, folder: Path) -> None:
    """The unsplit model as its builder returns it, without any pass."""
    from edgecompile.commands.compile_command import compose
    from edgecompile.config.model_spec import model_of
    from edgecompile.models import build_model

    conf = compose(args.overrides)
    module = build_model(model_of(conf.model), conf.seed)
    inputs = dict(zip((spec.name for spec in plan.inputs), golden_inputs(plan, folder), strict=True))

    serve(lambda count: timed(lambda: module(**inputs), count))


def tcp(args: argparse.Namespace, plan: Plan, folder: Path) -> None:
    """A bare TCP socket that moves as many bytes as the first cut does: stage 0 sends, stage 1 receives."""
    host, port = args.master.rsplit(":", 1)
    num_bytes = sum(spec.num_bytes for spec in plan.stages[0].outputs)
    if args.stage == 0:
        with socket.create_server((host, int(port))) as listener:
            peer, _ = listener.accept()
        message = bytes(num_bytes)

        def burst(count: int) -> list[float]:
            for _ in range(count):
                peer.sendall(message)
            return []

        return serve(burst)
    peer = connect(host, int(port))
    buffer = bytearray(num_bytes)

    def receive(count: int) -> list[float]:
        times = []
        for _ in range(count):
            view = memoryview(buffer)
            while view:
                view = view[peer.recv_into(view) :]
            times.append(time.monotonic())
        return times

    return serve(receive)


def connect(host: str, port: int) -> socket.socket:
    """As soon as somebody listens; TimeoutError after a minute."""
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        try:
            return socket.create_connection((host, port))
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nobody listens on {host}:{port}")


ROLES = {role.__name__: role for role in (ours, pipelining, pipelining_prepacked, alone, eager, tcp)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--stage", type=int, default=0)
    parser.add_argument("--master", metavar="ADDR:PORT")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="for eager: what the plan was compiled with")
    args = parser.parse_intermixed_args()
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    plan = read_plan(args.plan)
    ROLES[args.role](args, plan, args.plan.resolve().parent)
    sys.stderr.flush()
    os._exit(0)  # a thread that waits in gloo would keep the interpreter from ending


if __name__ == "__main__":
    main()
