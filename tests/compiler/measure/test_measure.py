"""The parts of edgeprofile: what is measured together, and how samples become unit times that add up."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compiler_helpers import TINY_VIT, captured_chain

from edgecompile.commands.compile_command import compose
from edgecompile.config.cluster_spec import cluster_of
from edgecompile.contract.errors import UserError
from edgecompile.frontend.chain.fingerprint import chain_fingerprint
from edgecompile.frontend.chain.units import Chain
from edgecompile.measure.bench import Bench, Sample
from edgecompile.measure.lazy import WithoutWeights
from edgecompile.measure.machine_costs.messages import affine
from edgecompile.measure.partial import PartialFile
from edgecompile.measure.rounds import Measured, Span, spans_of
from edgecompile.measure.solve import solve_units
from edgecompile.measure.stretches import classes, range_bytes, stretches_of
from edgecompile.profile.profile_file import Cost, profile_path
from edgecompile.profile.profile_fit import cores_of, threads_of

pytestmark = pytest.mark.slow

LARGE = 1 << 30


@pytest.fixture(scope="module")
def chain() -> Chain:
    return captured_chain(TINY_VIT, 2)[0]


def test_stretches_cover_the_chain_and_blocks_are_one_class(chain: Chain) -> None:
    stretches = stretches_of(chain, LARGE)
    covered = [unit for stretch in stretches for unit in range(stretch.first, stretch.last + 1)]
    assert covered == list(range(len(chain.units)))
    repeated = [alike for alike in classes(stretches).values() if len(alike) > 1]
    assert [len(alike) for alike in repeated] == [3]  # of 4 blocks; the selection of one token changes the last
    assert {stretch.last - stretch.first + 1 for stretch in repeated[0]} == {12}


def test_stretches_fit_the_memory_or_say_which_unit_does_not(chain: Chain) -> None:
    most = max(range_bytes(chain, index, index) for index in range(len(chain.units)))
    stretches = stretches_of(chain, most)
    assert len(stretches) > len(stretches_of(chain, LARGE))
    assert all(range_bytes(chain, stretch.first, stretch.last) <= most for stretch in stretches)
    with pytest.raises(UserError, match=r"profile.max_memory: unit 0 .* alone takes"):
        stretches_of(chain, 100)


def test_checks_are_ranges_that_are_not_measured_as_stretches(chain: Chain) -> None:
    spans = spans_of(chain, LARGE, seed=0)
    stretches = {(span.first, span.last) for span in spans if span.atoms}
    checks = {(span.first, span.last) for span in spans if not span.atoms}
    assert len(checks) == 3
    assert not checks & stretches


def spans_of_two_stretches(chain: Chain) -> tuple[list[Span], list[float]]:
    """The spans of a chain, and made-up seconds of its units, equal where stretches are alike."""
    spans = spans_of(chain, LARGE, seed=0)
    seconds = [0.0] * len(chain.units)
    for number, span in enumerate(span for span in spans if span.atoms):
        for place in span.places:
            for offset in range(span.last - span.first + 1):
                seconds[place + offset] = 1e-3 * (1 + number) * (1 + offset % 5)
    return spans, seconds


Distort = Callable[[float, int], Sample]


def samples_of(spans: list[Span], seconds: list[float], call_s: float, distort: Distort) -> dict[str, Measured]:
    found = {}
    for span in spans:
        measured = Measured(rounds=5, growth_bytes=1000 if span.atoms else None)
        whole = call_s + sum(seconds[span.first : span.last + 1])
        measured.whole = [distort(whole, number) for number in range(5)]
        for number in range(5 if span.atoms else 0):
            atoms = [sum(seconds[atom.first : atom.last + 1]) + call_s for atom in span.atoms]
            measured.atoms.append([distort(value, number) for value in atoms])
        found[span.name] = measured
    return found


def steady(value: float, number: int) -> Sample:
    return Sample(value * (1 + 0.01 * (number - 2)), value * (1 + 0.01 * (number - 2)))


def often_disturbed(value: float, number: int) -> Sample:
    return Sample(value * (3.0 if number % 2 else 1.0), value)


def always_disturbed(value: float, number: int) -> Sample:
    return Sample(value * (2 + number), value)


@pytest.mark.parametrize("distort", [steady, often_disturbed, always_disturbed])
def test_units_are_found_from_whole_stretches_and_their_parts(chain: Chain, distort: Distort) -> None:
    spans, seconds = spans_of_two_stretches(chain)
    solved = solve_units(chain, spans, samples_of(spans, seconds, 20e-6, distort), 1)
    assert solved.call_s == pytest.approx(20e-6, rel=1e-6)
    assert solved.wall_s == pytest.approx(seconds, rel=1e-6)
    assert solved.cpu_s == pytest.approx([value * (1 + 20e-6 / 1e-3) for value in seconds], rel=0.05)
    assert solved.correction == pytest.approx(1.0)
    assert all(check.predicted_s == pytest.approx(check.measured_s) for check in solved.checks)
    assert (solved.disturbed > 0) == (distort is not steady)


def test_what_all_checks_say_corrects_all_units(chain: Chain) -> None:
    spans, seconds = spans_of_two_stretches(chain)
    found = samples_of(spans, seconds, 0.0, steady)
    for span in spans:
        if not span.atoms:
            found[span.name].whole = [Sample(1.1 * item.wall_s, 1.1 * item.cpu_s) for item in found[span.name].whole]
    solved = solve_units(chain, spans, found, 1)
    assert solved.correction == pytest.approx(1.1)
    assert solved.wall_s == pytest.approx([1.1 * value for value in seconds])


@pytest.mark.parametrize("begin_s", [0.0, 5e-3])
def test_no_time_is_negative_where_a_stretch_seems_shorter_than_a_call(chain: Chain, begin_s: float) -> None:
    """As noise makes it with a model of a few thousand numbers."""
    spans, seconds = spans_of_two_stretches(chain)
    found = samples_of(spans, seconds, 2e-3, steady)
    short = next(span for span in spans if span.atoms)
    found[short.name].whole = [Sample(1e-4, 1e-4)] * 5
    solved = solve_units(chain, spans, found, 1, begin_s)
    assert solved.call_s > 1e-4
    for values in (solved.wall_s, solved.wall_q1_s, solved.wall_q3_s, solved.cpu_s):
        assert min(values) >= 0
    assert min(solved.wall_s) > 0


def test_two_threads_are_no_disturbance(chain: Chain) -> None:
    spans, seconds = spans_of_two_stretches(chain)
    found = samples_of(spans, seconds, 0.0, lambda value, number: Sample(value, 1.9 * value))
    solved = solve_units(chain, spans, found, 2)
    assert solved.disturbed == 0
    assert solved.wall_s == pytest.approx(seconds)
    assert sum(solved.cpu_s) == pytest.approx(1.9 * sum(seconds))


def test_activations_are_what_the_process_grew_by_with_the_inputs_that_lay_there(chain: Chain) -> None:
    spans, seconds = spans_of_two_stretches(chain)
    found = samples_of(spans, seconds, 0.0, steady)
    block = next(span for span in spans if len(span.places) > 1)
    found[block.name].growth_bytes = 1_000_000
    solved = solve_units(chain, spans, found, 1)
    assert solved.activation_bytes is not None
    for place in block.places:
        peak = max(solved.activation_bytes[place : place + 12])
        assert peak == 1_000_000 + chain.boundaries[place].num_bytes
    found[block.name].growth_bytes = None
    assert solve_units(chain, spans, found, 1).activation_bytes is None


def test_a_bench_computes_what_its_units_do(chain: Chain) -> None:
    examples = captured_chain(TINY_VIT, 2)[1]
    stretch = stretches_of(chain, LARGE)[1]
    bench = Bench(chain, stretch.first, stretch.last, stretch.atoms, examples, "cpu")
    assert len(bench.run_atoms()) == len(stretch.atoms)
    assert bench.run_whole().wall_s > 0
    (values,) = bench._inputs
    for atom in bench._atoms:
        values = atom(*values)
    for value, whole in zip(values, bench._whole(*bench._inputs[0]), strict=True):
        assert torch.allclose(value, whole, atol=1e-5)


def test_a_model_without_weights_has_the_same_units_and_real_buffers() -> None:
    real, _ = captured_chain(TINY_VIT, 1)
    with WithoutWeights():
        module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        drawn = torch.empty(1000).fill_(7.0)
        drawn.normal_().mul_(3)
        table = torch.arange(6).float().mul_(2)
        lazy, _ = captured_chain(TINY_VIT, 1)
    assert float(drawn.min()) == float(drawn.max()) == 7.0
    assert table.tolist() == [0, 2, 4, 6, 8, 10]
    assert module[1].running_var.tolist() == [1, 1, 1, 1]
    assert chain_fingerprint(lazy, 1) == chain_fingerprint(real, 1)


def test_the_fingerprint_is_the_models_and_not_the_microbatchs() -> None:
    prints = {size: chain_fingerprint(captured_chain(TINY_VIT, size)[0], size) for size in (1, 3)}
    wider = [word.replace("hidden_size: 16", "hidden_size: 32") for word in TINY_VIT]
    assert prints[1] == prints[3]
    assert chain_fingerprint(captured_chain(wider, 1)[0], 1) != prints[1]


def test_affine_costs() -> None:
    assert affine([10, 100, 1000], [7.0, 25.0, 205.0]) == pytest.approx((5.0, 0.2))
    fixed_s, each_s = affine([10, 1000], [1.0, 200.0])
    assert fixed_s == 0
    assert each_s == pytest.approx(statistics.mean([1.0 / 10, 200.0 / 1000]), rel=1)
    cost = Cost(fixed_s=1.0, each_s=0.5, fixed_cpu_s=2.0, each_cpu_s=0.5)
    assert (cost.seconds(10, 4.0), cost.seconds(10, 0.5)) == (6.0, 14.0)


def test_samples_of_other_settings_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "x.partial"
    first = PartialFile(path, {"threads": 1})
    first.keep({"8": {"stretch 0-3": Measured(1, [Sample(0.5, 0.4)], [[Sample(0.1, 0.1)]], 12)}}, complete=True)
    again = PartialFile(path, {"threads": 1})
    assert again.resumed
    assert again.is_complete("8")
    assert again.measured("8")["stretch 0-3"] == Measured(1, [Sample(0.5, 0.4)], [[Sample(0.1, 0.1)]], 12)
    assert not PartialFile(path, {"threads": 2}).resumed
    path.write_text('{"settings": {')
    assert not PartialFile(path, {"threads": 1}).resumed


def test_threads_and_cores_are_those_that_the_launcher_gives() -> None:
    for overrides, threads, cores in (
        (["hosts.count=1"], 8, 8.0),
        (["hosts.count=2"], 4, 4.0),
        (["hosts.count=2", "devices.local.threads=1"], 1, 4.0),
        (["hosts.count=2", "devices.local.cpu_share=0.5"], 4, 0.497),  # the rest goes to the runtime's own threads
    ):
        cluster = cluster_of(compose(overrides))
        assert threads_of(cluster, cluster.devices[0], 8) == threads, overrides
        assert cores_of(cluster, cluster.devices[0], 8) == pytest.approx(cores), overrides


def test_a_profiles_path_stays_in_its_folder() -> None:
    assert profile_path("p", "rpi 4", "org/model").name == "rpi_4-org_model.yaml"
