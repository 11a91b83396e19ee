"""Units of a language model are measured as ranks run them: with the indices of real positions, and kept tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compiler_helpers import captured_chain

from edgecompile.artifacts.shards import needed_module
from edgecompile.frontend.capture.graphs import op_name
from edgecompile.frontend.chain.kept_state import seen_context, state_of, usual_context
from edgecompile.frontend.chain.units import Chain
from edgecompile.measure import bench as benches
from edgecompile.measure.bench import Bench, Sample, far_context
from edgecompile.measure.machine_costs.item_costs import measure_candidates
from edgecompile.measure.partial import PartialFile
from edgecompile.measure.rounds import Effort, Measured, measure_chain, spans_of
from edgecompile.measure.sizes import MeasuredSize, grid_of
from edgecompile.measure.solve import solve_units
from edgecompile.measure.stretches import atoms_of

USUAL, CHUNK, ROWS = 12, 8, 3
WORDS = (
    "model=smollm2_135m", f"generation.chunk={CHUNK}", "generation.context=64", "generation.prompt=8",
    "generation.tokens=8",
    *(f"model.build.config.{key}={value}" for key, value in {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 50, "max_position_embeddings": 64}.items()),
)  # fmt: skip
LARGE = 1 << 30
GRID = grid_of((1, ROWS), "tokens", (1, 2, CHUNK), CHUNK)

Text = tuple[Chain, tuple[torch.Tensor, ...]]


@pytest.fixture(scope="module")
def text() -> Text:
    chain, examples = captured_chain(WORDS, ROWS)
    for unit in chain.units:
        for node in unit.nodes:
            if op_name(node) == "attend":
                node.meta["context"] = USUAL
    return chain, examples


def test_no_message_is_measured_that_has_more_tokens_than_one_may_have() -> None:
    assert [size.key for size in GRID] == ["1 x 1", "1 x 2", "1 x 8", "3 x 1", "3 x 2"]
    assert [size.key for size in grid_of((4, 8), "tokens", (3, 5), 8)] == ["4 x 3", "4 x 5", "8 x 3"]


@pytest.mark.slow
def test_indices_that_reach_a_stretch_need_no_units_before(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, examples = text
    size = MeasuredSize(microbatch=2, extents={"tokens": 4})
    real = {
        index: benches._real_tensors(chain, index, size, examples, "cpu") for index in (1, len(chain.units) * 2 // 3)
    }
    monkeypatch.setattr(benches, "_real_tensors", lambda *_: pytest.fail("all units before were computed"))
    for index, expected in real.items():
        made = benches._boundary_tensors(chain, index, size, examples, "cpu")
        tensors = chain.boundaries[index].tensors
        assert [value.shape for value in made] == [value.shape for value in expected]
        whole = [place for place, tensor in enumerate(tensors) if "int" in tensor.dtype]
        assert whole
        assert all(torch.equal(made[place], expected[place]) for place in whole)


@pytest.mark.slow
def test_indices_that_need_weights_need_all_units_before(text: Text) -> None:
    chain, _ = text
    middle = len(chain.units) * 2 // 3
    floats = [tensor for tensor in chain.boundaries[middle].tensors if tensor.dtype == "float32"]
    assert needed_module(chain, middle, floats, generic=True) is None


@pytest.mark.slow
def test_attention_is_measured_with_what_slots_hold(text: Text, tmp_path: Path) -> None:
    chain, examples = text
    effort = Effort(rounds=3, time_limit_s=60.0, max_bytes=LARGE, seed=0, device="cpu", prepack="never", vary=True)
    store = PartialFile(tmp_path / "x.partial", {})
    spans, found = measure_chain(chain, examples, GRID, effort, store, lambda *_: None)
    attending = {spec.unit for spec in state_of(chain)}
    kept = [span for span in spans if span.atoms and attending & set(range(span.first, span.last + 1))]
    again = PartialFile(tmp_path / "x.partial", {})
    for size in GRID:
        assert all(len(found[size.key][span.name].far) == 3 for span in kept)
        assert again.measured(size.key)[kept[0].name] == found[size.key][kept[0].name]
        solved = solve_units(chain, spans, found[size.key], 1)
        assert solved.context == USUAL
        assert {index for index, value in enumerate(solved.context_s) if value} <= attending
    assert usual_context(chain) == USUAL


@pytest.mark.slow
def test_a_bench_reads_the_tokens_that_its_slots_hold(text: Text) -> None:
    chain, examples = text
    (unit, *_) = (spec.unit for spec in state_of(chain))
    (atom,) = [atom for atom in atoms_of(chain) if atom.first <= unit <= atom.last]
    bench = Bench(chain, atom.first, atom.last, [atom], examples, "cpu", "never", GRID)
    assert bench.has_far
    for far, held in ((False, USUAL), (True, far_context(USUAL))):
        for step, size in zip(bench._steps[far], GRID, strict=True):
            assert step._end == held + size.tokens(chain)


@pytest.mark.slow
def test_what_a_token_more_costs_is_the_difference_over_the_tokens(text: Text) -> None:
    chain, _ = text
    spans = spans_of(chain, LARGE, seed=0)
    attending = {spec.unit for spec in state_of(chain)}
    each_s, more = 2e-6, far_context(USUAL) - USUAL
    found = {}
    for span in spans:
        near = [Sample(1e-3, 1e-3) for _ in span.atoms]
        far = [
            Sample(1e-3 + more * each_s * bool(attending & set(range(atom.first, atom.last + 1))), 1e-3)
            for atom in span.atoms
        ]
        whole = 1e-3 * (span.last - span.first + 1)
        found[span.name] = Measured(2, [Sample(whole, whole)] * 2, [near] * 2 if near else [], 1000, [far] * 2)
    solved = solve_units(chain, spans, found, 1)
    expected = [each_s if unit in attending else 0.0 for unit in range(len(chain.units))]
    assert solved.context_s == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("context", "window", "seen"), [(10, 0, 10), (10, 20, 10), (10, 4, 3), (0, 4, 0)])
def test_a_window_hides_what_is_further_back(context: int, window: int, seen: int) -> None:
    assert seen_context(context, window) == seen


def test_finding_candidates_takes_time() -> None:
    cost = measure_candidates(200, 64)
    assert cost.seconds(8, 1.0) > 0
    assert cost.cpu_seconds(2) <= cost.cpu_seconds(8)
