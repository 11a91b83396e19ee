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
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from edgecompile.commands.compile_command import compose
from edgecompile.config.cluster_spec import Device, cluster_of
from edgecompile.config.model_spec import model_of
from edgecompile.contract.dtypes import DTYPE_BYTES
from edgecompile.contract.quantities import format_time, parse_flops
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.trace import capture
from edgecompile.frontend.chain.blocks import pipeedge_cuts
from edgecompile.frontend.chain.units import Chain, build_chain
from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs
from edgecompile.frontend.passes import run_passes
from edgecompile.models import build_model
from edgecompile.profile.analytic import analytic_profile

DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
VGG_CHANNELS = (64, 128, 256, 512, 512)
EFFICIENCIES = [percent / 100 for percent in range(6, 100, 2)]
LAUNCHES_S = [1e-6 * 1.25**step for step in range(28)]


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


def quarters(chain: Chain) -> int:
    blocks = {unit.module.split("layers.")[1].split(".")[0] for unit in chain.units if "layers." in unit.module}
    return 4 * len(blocks)


@cache
def part_of(model: str, microbatch: int, part: int | None) -> slice:
    """The units of a quarter of a block; all of them without one."""
    if part is None:
        return slice(None)
    chain = chain_of(model, microbatch)
    return slice(*pipeedge_cuts([1, part - 1, part, part, part + 1, quarters(chain)], chain))


def analytic_s(row: Row, device: Device) -> float:
    times = analytic_profile(chain_of(row.model, row.microbatch), [device]).unit_s[device.name]
    return sum(times[part_of(row.model, row.microbatch, row.part)])


@cache
def device_of(board: str, dtype: str) -> Device:
    """The board as the compiler sees it, computing in `dtype`: its peak, and smaller values on the same memory."""
    added = [] if board == "local" else [f"+board@devices.{board}={board}"]
    conf = compose([*added, f"hosts.members.local.device={board}"])
    device, option = cluster_of(conf).devices[0], conf.devices[board]
    return replace(
        device,
        peak_flops_per_s=parse_flops(option.peak[dtype], "peak") * option.efficiency,
        memory_bytes_per_s=device.memory_bytes_per_s * DTYPE_BYTES["float32"] / DTYPE_BYTES[dtype],
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
        analytic = analytic_s(row, device_of(board, row.dtype))
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
    efficiency_now = compose([f"+board@devices.{board}={board}"]).devices[board].efficiency
    best = (math.inf, 0.0, 0.0)
    for efficiency, launch_s in itertools.product(EFFICIENCIES, LAUNCHES_S):
        loss = 0.0
        for row in rows:
            now = device_of(board, row.dtype)
            peak = now.peak_flops_per_s / efficiency_now * efficiency
            tried = replace(now, peak_flops_per_s=peak, launch_s=launch_s)
            loss += math.log(analytic_s(row, tried) / row.published_s) ** 2 / len(rows)
        best = min(best, (loss, efficiency, launch_s))
    print(f"{board}: efficiency {best[1]:.2f}, launch_overhead {format_time(best[2])}: "
          f"about {math.exp(math.sqrt(best[0])) - 1:.1%} off")  # fmt: skip


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
