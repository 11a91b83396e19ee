"""Measuring at several sizes: one module runs at all of them, and what stretches take to begin is no unit's work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import sized_models
import torch
from compiler_helpers import captured_chain

from edgecompile.frontend.chain.units import Chain
from edgecompile.measure.bench import Bench, Sample
from edgecompile.measure.partial import PartialFile
from edgecompile.measure.rounds import Effort, Measured, Span, measure_chain, spans_of, told
from edgecompile.measure.sizes import MeasuredSize, chain_at, grid_of
from edgecompile.measure.solve import solve_units, start_s
from edgecompile.measure.stretches import atoms_of

MOST, LARGE = 12, 1 << 30
EVERY = ("Sized", "Last", "First", "Flat", "Positions", "Windowed", "Near", "Mean", "Divided", "Longer", "OnePast",
         "Countdown", "Counted", "Attended")  # fmt: skip
GRID = grid_of((1, 3), "length", (1, 5, MOST))


def captured(name: str) -> tuple[Chain, tuple[torch.Tensor, ...]]:
    chain, examples = captured_chain(
        (
            "model=custom", f"model.build._target_=sized_models.{name}", f"model.dims={{length: {{max: {MOST}}}}}",
            f"model.inputs={{x: {{shape: [length, {sized_models.WIDTH}], dtype: float32}}}}",
        ), 3,
    )  # fmt: skip
    assert chain.captured.sampling is not None
    return chain, examples


def test_a_grid_is_every_pair_in_order() -> None:
    assert [size.key for size in GRID] == ["1 x 1", "1 x 5", "1 x 12", "3 x 1", "3 x 5", "3 x 12"]
    assert [size.key for size in grid_of((1, 8), None, ())] == ["1", "8"]
    assert told(GRID) == "microbatches 1, 3 at length 1, 5, 12"
    assert told(grid_of((8,), None, ())) == "microbatch 8"


@pytest.mark.parametrize("name", EVERY)
def test_one_bench_computes_every_size(name: str) -> None:
    chain, examples = captured(name)
    last = len(chain.units) - 1
    bench = Bench(chain, 0, last, atoms_of(chain), examples, "cpu", "never", GRID)
    for place, size in enumerate(GRID):
        inputs = size.inputs(chain, examples)
        assert inputs[0].shape == (size.microbatch, size.extents["length"], sized_models.WIDTH)
        values = bench._live[place]
        for atom in bench._atoms:
            values = atom(*values)
        wholes = bench._whole(*bench._inputs[place])
        for value, whole, expected in zip(
            values, wholes, chain.boundaries[-1].at(size.sizes(chain)).tensors, strict=True
        ):
            assert tuple(whole.shape) == expected.shape
            torch.testing.assert_close(value, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["Attended", "Longer"])
def test_all_sizes_are_measured_in_turns(tmp_path: Path, name: str) -> None:
    chain, examples = captured(name)
    effort = Effort(rounds=3, time_limit_s=60.0, max_bytes=LARGE, seed=0, device="cpu", prepack="never", vary=True)
    store = PartialFile(tmp_path / "x.partial", {})
    done = []
    spans, found = measure_chain(chain, examples, GRID, effort, store, lambda text, count, total: done.append(count))
    assert done == [0, 1, 2, 3]
    assert list(found) == [size.key for size in GRID]
    again = PartialFile(tmp_path / "x.partial", {})
    assert all(again.is_complete(size.key) for size in GRID)
    assert again.measured("1 x 5")[spans[0].name] == found["1 x 5"][spans[0].name]
    counts = []
    for size in GRID:
        solved = solve_units(chain_at(chain, examples, size), spans, found[size.key], 1)
        assert len(solved.wall_s) == len(chain.units)
        assert min(solved.wall_s) >= 0
        counts.append([unit.activation_bytes for unit in chain_at(chain, examples, size).units])
    assert all(one < most for one, most in zip(counts[0], counts[-1], strict=True))
    assert counts[-1] == [unit.activation_bytes for unit in chain.units]


def made_up(spans: list[Span], unit_s: float, begin_s: float) -> Mapping[str, Measured]:
    """Every span takes so long to begin; an atom alone, after others, takes no longer than it works."""
    found = {}
    for span in spans:
        whole_s = begin_s + unit_s * (span.last - span.first + 1)
        sizes = [atom.last - atom.first + 1 for atom in span.atoms]
        atoms = [[Sample(unit_s * count, unit_s * count) for count in sizes]] * 5 if sizes else []
        found[span.name] = Measured(5, [Sample(whole_s, whole_s)] * 5, atoms, 1000 if sizes else None)
    return found


def test_what_a_stretch_takes_to_begin_is_counted_once_a_stage() -> None:
    chain = captured_chain(("model=deit_tiny", "model.inputs.pixel_values.shape=[3,32,32]",
                            "+model.build.config.image_size=32", "++model.build.config.hidden_size=24",
                            "++model.build.config.intermediate_size=48"), 1)[0]  # fmt: skip
    assert not any(span.entire for span in spans_of(chain, LARGE, seed=0))
    spans = spans_of(chain, LARGE, seed=0, entire=True)
    (entire,) = [span for span in spans if span.entire]
    assert (entire.first, entire.last) == (0, len(chain.units) - 1)
    assert not any(span.entire for span in spans_of(chain, entire.num_bytes - 1, seed=0, entire=True))
    found = made_up(spans, unit_s=1e-3, begin_s=4e-4)
    begin_s = start_s(spans, found, 1)
    assert begin_s == pytest.approx(4e-4, rel=1e-6)
    solved = solve_units(chain, spans, found, 1, begin_s)
    assert solved.call_s == pytest.approx(4e-4, rel=1e-6)
    assert solved.wall_s == pytest.approx([1e-3] * len(chain.units), rel=1e-6)
    assert solved.cpu_s == pytest.approx([1e-3] * len(chain.units), rel=0.02)
    plain = [span for span in spans if not span.entire]
    assert start_s(plain, found, 1) == 0.0


def test_a_fixed_chain_has_one_size() -> None:
    chain, examples = captured_chain(("model=custom", "model.build._target_=hand_written.Encoder",
                                      "model.inputs={x: {shape: [5, 16], dtype: float32}, mask: {shape: [5], "
                                      "dtype: int64}}"), 1)  # fmt: skip
    size = MeasuredSize(microbatch=1)
    assert chain_at(chain, examples, size) is chain
    assert size.inputs(chain, examples) == examples
