"""How far the analytic times of conf/board are from measurements that others published.

    python benchmarks/calibration.py                        # every board: published, analytic, error
    python benchmarks/calibration.py --boards minnowboard
    python benchmarks/calibration.py --fit rcc_ve           # the efficiency and launch overhead that fit best

The measurements and their sources are in calibration.yaml. Each model is captured as edgecompile captures it (nothing
is left out of its last block, as those who measured left nothing out) and costed with the board's figures.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from edgecompile.blocks import pipeedge_cuts
from edgecompile.capture import FlatModel, capture
from edgecompile.cli import compose
from edgecompile.domain import model_of
from edgecompile.models import build_model
from edgecompile.passes import run_passes
from edgecompile.plan import DTYPE_BYTES
from edgecompile.quantities import format_time, parse_flops, parse_rate, parse_time
from edgecompile.reference import example_inputs, golden_inputs
from edgecompile.schema import DeviceConf
from edgecompile.units import Chain, build_chain

DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
VGG_CHANNELS = (64, 128, 256, 512, 512)


@dataclass(frozen=True)
class Figures:
    flops_per_s: float
    memory_bytes_per_s: float
    launch_s: float


@dataclass(frozen=True)
class Row:
    """One published measurement; `part`: a quarter of a transformer block, 1-based over the whole model."""

    model: str
    microbatch: int
    part: int | None
    dtype: str
    published_s: float
    source: str
    fitted: bool


# --- models that no option names -------------------------------------------------------------------------------------


def vgg(depths: Sequence[int]) -> nn.Module:
    """VGG (Simonyan and Zisserman 2015): so many 3 x 3 convolutions before each of five poolings."""
    parts: list[nn.Module] = []
    before = 3
    for depth, channels in zip(depths, VGG_CHANNELS, strict=True):
        for _ in range(depth):
            parts += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
        parts.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*parts, *head)


def yolo(scale: str) -> nn.Module:
    """YOLO11 with random weights and fused normalisation, as its authors export it."""
    from ultralytics.nn.tasks import DetectionModel

    model: Any = DetectionModel(f"yolo11{scale}.yaml", verbose=False).eval().fuse(verbose=False)
    model.model[-1].export, model.model[-1].format = True, "torchscript"
    with torch.inference_mode(mode=False), torch.no_grad():
        model(torch.zeros(1, 3, 640, 640))  # its head computes anchors once, and then keeps them
    return _Positional(model)


class _Positional(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> Any:
        return self.model(x)


# --- published and analytic ------------------------------------------------------------------------------------------


def rows_of(board: str) -> Iterator[Row]:
    for group in DATA["boards"].get(board, []):
        seconds = group.get("seconds") or {name: 1 / rate for name, rate in group["per_s"].items()}
        for model, value in seconds.items():
            first = 4 * (group["block"] - 1) + 1 if "block" in group else None
            for offset, published_s in enumerate(value if isinstance(value, list) else [value]):
                yield Row(
                    model, group.get("microbatch", 1), None if first is None else first + offset,
                    group.get("dtype", "float32"), published_s, group["source"], group.get("fitted", True),
                )  # fmt: skip


@cache
def chain_of(model: str, microbatch: int) -> Chain:
    words = [*DATA["models"][model], f"microbatch={microbatch}", "passes.push_selection_up=false"]
    conf = compose(words)
    spec = model_of(conf.model)
    module = build_model(spec, conf.seed)
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs)
    examples = example_inputs(spec, golden_inputs(spec, module, conf.seed), microbatch)
    return build_chain(run_passes(capture(flat, spec, examples, conf.capture), examples, conf.passes))


@cache
def work_of(model: str, microbatch: int, part: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Operations and float32 bytes of each unit."""
    chain = chain_of(model, microbatch)
    units = list(chain.units)
    if part is not None:
        first, end = pipeedge_cuts([1, part - 1, part, part, part + 1, quarters(chain)], chain)
        units = units[first:end]
    return np.array([unit.flops for unit in units], float), np.array([unit.moved_bytes for unit in units], float)


def quarters(chain: Chain) -> int:
    blocks = {unit.module.split("layers.")[1].split(".")[0] for unit in chain.units if "layers." in unit.module}
    return 4 * len(blocks)


def analytic_s(row: Row, figures: Figures) -> float:
    """The cost model of edgecompile.profile: arithmetic or traffic, whichever is longer, and a launch, a unit."""
    flops, moved = work_of(row.model, row.microbatch, row.part)
    traffic = moved * DTYPE_BYTES[row.dtype] / DTYPE_BYTES["float32"]
    times = np.maximum(flops / figures.flops_per_s, traffic / figures.memory_bytes_per_s) + figures.launch_s
    return float(times.sum())


def device_of(board: str) -> DeviceConf:
    added = [] if board == "local" else [f"+board@devices.{board}={board}"]
    return compose(added).devices[board]


def figures_of(board: str, dtype: str) -> Figures:
    device = device_of(board)
    return Figures(
        parse_flops(device.peak[dtype], "peak") * device.efficiency,
        parse_rate(device.memory_bandwidth, "memory_bandwidth"),
        parse_time(device.launch_overhead, "launch_overhead"),
    )


def available(board: str) -> list[Row]:
    rows = list(rows_of(board))
    if find_spec("ultralytics") is None:
        rows = [row for row in rows if not row.model.startswith("yolo")]
    return rows


def tell(board: str) -> None:
    rows = available(board)
    missing = len(list(rows_of(board))) - len(rows)
    print(f"\n{board}" + (f" ({missing} rows left out: pip install ultralytics)" if missing else ""))
    errors = []
    for row in rows:
        analytic = analytic_s(row, figures_of(board, row.dtype))
        error = analytic / row.published_s - 1
        part = "" if row.part is None else f" part {row.part}"
        mark = " " if row.fitted else "*"
        what = f"{row.model + part:22s} {row.dtype:8s} x{row.microbatch}"
        print(f"  {what}  published {format_time(row.published_s):>8s}  analytic {format_time(analytic):>8s}  "
              f"{error:+7.1%}{mark} {row.source}")  # fmt: skip
        if row.fitted:
            errors.append(abs(error))
    if errors:
        print(f"  error: median {statistics.median(errors):.1%}, worst {max(errors):.1%}")


def fit(board: str) -> None:
    """Least mean squared logarithm of analytic over published, by trying a grid; bandwidth stays as it is."""
    rows = [row for row in available(board) if row.fitted]
    efficiencies = [round(value, 3) for value in np.arange(0.05, 1.0, 0.01)]
    launches = [0.0, *np.geomspace(1e-6, 5e-4, 60)]
    best = (math.inf, 0.0, 0.0)
    for efficiency, launch_s in itertools.product(efficiencies, launches):
        loss = 0.0
        for row in rows:
            own = figures_of_peak(board, row.dtype)
            analytic = analytic_s(row, Figures(own[0] * efficiency, own[1], launch_s))
            loss += math.log(analytic / row.published_s) ** 2 / len(rows)
        best = min(best, (loss, efficiency, launch_s))
    print(f"{board}: efficiency {best[1]:.2f}, launch_overhead {format_time(best[2])}: "
          f"about {math.exp(math.sqrt(best[0])) - 1:.1%} off")  # fmt: skip


@cache
def figures_of_peak(board: str, dtype: str) -> tuple[float, float]:
    device = device_of(board)
    return parse_flops(device.peak[dtype], "peak"), parse_rate(device.memory_bandwidth, "memory_bandwidth")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", nargs="*", default=list(DATA["boards"]), metavar="BOARD")
    parser.add_argument("--fit", nargs="*", default=[], metavar="BOARD")
    args = parser.parse_args()
    for board in args.fit:
        fit(board)
    if not args.fit:
        for board in args.boards:
            tell(board)
        print("\n* shown, but the board's figures were not fitted to it; calibration.yaml says why")
    return 0


if __name__ == "__main__":
    sys.modules.setdefault("calibration", sys.modules[__name__])
    sys.exit(main())
