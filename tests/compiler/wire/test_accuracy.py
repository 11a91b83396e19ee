"""Wire formats on real data: a small trained ViT in three stages, on digits that it never saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compiler_helpers import scheduled

from edgecompile.artifacts.shards import RAW, write_shard
from edgecompile.commands.compile_command import compose
from edgecompile.config.model_spec import model_of
from edgecompile.config.request import wire_of
from edgecompile.execution import torchscript
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.trace import capture
from edgecompile.frontend.chain.units import build_chain
from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs
from edgecompile.frontend.passes import run_passes
from edgecompile.models import build_model
from edgecompile.models.weights import load_weights
from edgecompile.wire.formats import cut_formats

pytestmark = pytest.mark.slow

DIGITS = Path(__file__).resolve().parents[3] / "benchmarks" / "digits"
FOLD = 1
WORDS = ["model=vit_digits", "microbatch=60", "hosts.count=3", "schedule=manual",
         "schedule.cuts=[vit.layers.2,vit.layers.4]"]  # fmt: skip


class ThreeStages:
    """A fold's model, captured once, and the images that it never saw."""

    def __init__(self, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(DIGITS))
            import data
        images, labels = data.digits()
        held_out = [rows for _, rows in data.folds(labels)][FOLD]
        self.images, self.labels, self.folder = images[held_out], labels[held_out], folder
        conf = compose(WORDS)
        spec = model_of(conf.model)
        module = load_weights(build_model(spec, 0), str(data.weights_path(FOLD))).module
        flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs)
        examples = example_inputs(spec, golden_inputs(spec, module, 0), conf.microbatch)
        self.chain = build_chain(run_passes(capture(flat, spec, examples, conf.capture), examples, conf.passes))
        self.stages = scheduled(self.chain, conf).stages

    def logits(self, *overrides: str) -> torch.Tensor:
        """Of all images, through the shards that these overrides give."""
        conf = compose([*WORDS, *overrides])
        wires = [RAW, *cut_formats(wire_of(conf.wire, conf.schedule), 2), RAW]
        values = [(batch,) for batch in self.images.split(conf.microbatch)]
        for index, stage in enumerate(self.stages):
            first, last = stage.first, stage.last
            shard = write_shard(self.chain, first, last, self.folder, values[0], wires[index], wires[index + 1])
            run = torchscript.load(str(shard.path))
            values = [run(*batch) for batch in values]
        return torch.cat([batch[0] for batch in values])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ThreeStages:
    pytest.importorskip("sklearn")
    return ThreeStages(tmp_path_factory.mktemp("shards"))


def num_different(first: torch.Tensor, second: torch.Tensor) -> int:
    return int((first.argmax(1) != second.argmax(1)).sum())


def test_formats_keep_the_predictions(model: ThreeStages) -> None:
    exact = model.logits()
    assert float((exact.argmax(1) == model.labels).double().mean()) > 0.96
    for words, most in (("wire=fp16", 0.003), ("wire=int8", 0.003), ("wire=int4", 0.015)):
        assert num_different(model.logits(words), exact) <= most * len(exact), words


def test_two_bits_are_better_spent_than_between_the_extremes(model: ThreeStages) -> None:
    exact = model.logits()
    ours, plain = (
        model.logits("wire=int2", "wire.scale=item", f"wire.clipping={clipping}") for clipping in ("true", "false")
    )
    assert float((ours - exact).norm()) < 0.7 * float((plain - exact).norm())
    assert num_different(ours, exact) < num_different(plain, exact)
