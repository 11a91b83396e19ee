"""A profile of several extents: its file, what lies between its sizes, and the times of a mix of messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from compiler_helpers import captured_chain, command

from edgecompile.commands.compile_command import compose
from edgecompile.config.cluster_spec import Cluster
from edgecompile.config.measure_request import measure_of
from edgecompile.config.request import CompileRequest, request_of
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import DataSpec
from edgecompile.frontend.chain.fingerprint import chain_fingerprint
from edgecompile.frontend.chain.sized_work import SizedWork
from edgecompile.frontend.chain.units import Chain
from edgecompile.partition.auto_microbatch import at_microbatch, choose_microbatch
from edgecompile.profile.analytic import Profile
from edgecompile.profile.mix import Mix
from edgecompile.profile.profile_file import (
    Cost,
    DeviceProfile,
    MachineInfo,
    Messages,
    MicrobatchProfile,
    Rates,
    Versions,
    WireCost,
    profile_text,
    read_profile,
    write_profile,
)
from edgecompile.profile.size_grid import SizeGrid
from edgecompile.profile.workload import costs_of
from edgecompile.wire.formats import FORMATS

MOST = 32
WORDS = (
    "model=custom", "model.name=tiny", "model.build._target_=sized_models.Attended", "hosts.count=1",
    "devices.local.threads=1", "model.inputs={x: {shape: [length, 8], dtype: float32}}",
    f"model.dims={{length: {{max: {MOST}}}}}",
)  # fmt: skip
MEASURED = "profile=measured"
WIRES = tuple(
    WireCost(format=name, scale=scale, clipping=clipping, encode=Cost(), decode=Cost())
    for name, scale, clipping in product(FORMATS, ("item", "channel"), (True, False))
)
Seconds = Callable[[int, int, int], float]


def seconds(unit: int, batch: int, extent: int) -> float:
    """Of a unit whose time is a constant and what follows from its positions."""
    return 1e-3 * (1 + unit % 3) + 1e-5 * (1 + unit % 5) * batch * extent


def profile_of(
    fingerprint: str, units: tuple[str, ...], batches: tuple[int, ...], extents: tuple[int, ...],
    wall_s: Seconds = seconds,
) -> DeviceProfile:  # fmt: skip
    """Made up; without extents it was measured at the largest alone."""
    entries = []
    for batch, extent in product(batches, extents or (MOST,)):
        values = tuple(wall_s(unit, batch, extent) for unit in range(len(units)))
        entries.append(
            MicrobatchProfile(
                microbatch=batch, extents={"length": extent} if extents else {}, rounds=3, disturbed=0.0,
                call_s=1e-4 * batch, correction=1.0, checks=(), wall_s=values, wall_q1_s=values, wall_q3_s=values,
                cpu_s=tuple(value / 2 for value in values),
                activation_bytes=tuple(1000 * batch * extent for _ in units),
            )
        )  # fmt: skip
    return DeviceProfile(
        version=2 if extents else 1, device="local", model="custom", fingerprint=fingerprint, execution="cpu",
        dtype="float32", threads=1, busy_cores=0, date="2026-01-01", runtime_bytes=10**8,
        machine=MachineInfo(name="m", processor="p", cores=1, memory_bytes=10**9, architecture="x", system="s"),
        versions=Versions(edgecompile="0.1.0", torch="2", python="3"),
        rates=Rates(matrix_flops_per_s=1e9, memory_bytes_per_s=1e9, pack=Cost(fixed_s=0.0, each_s=0.0)),
        messages=Messages(send=Cost(), receive=Cost()), wires=WIRES, units=units, microbatches=tuple(entries),
        prepack="auto",
    )  # fmt: skip


@pytest.fixture(scope="module")
def chain() -> Chain:
    return captured_chain(WORDS, 4)[0]


def request_for(folder: Path, *words: str) -> CompileRequest:
    return request_of(compose([*WORDS, "microbatch=4", MEASURED, f"profile.folder={folder}", *words]))


def written(folder: Path, chain: Chain, batches: tuple[int, ...], extents: tuple[int, ...]) -> Path:
    path = folder / "local-tiny.yaml"
    ops = tuple(unit.op for unit in chain.units)
    write_profile(profile_of(chain_fingerprint(chain, 4), ops, batches, extents), path)
    return path


def of_largest(chain: Chain) -> list[float]:
    return [seconds(unit, 4, MOST) for unit in range(len(chain.units))]


def costs(folder: Path, chain: Chain, mix: Mix | None, *words: str) -> Profile:
    examples = captured_chain(WORDS, 4)[1]
    return costs_of(request_for(folder, *words), chain, examples, mix)


def mix_of(chain: Chain, *messages: tuple[int, int]) -> Mix:
    return Mix(source="made up", dims=chain.captured.dims, dim="length", messages=messages, useful=1.0)


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_file_keeps_the_sizes(tmp_path: Path) -> None:
    given = profile_of("f" * 64, ("a", "b"), (1, 4), (2, 8, 32))
    write_profile(given, tmp_path / "p.yaml")
    found = read_profile(tmp_path / "p.yaml")
    assert found == given
    assert (found.version, found.sizes, found.extents, found.dim) == (2, (1, 4), (2, 8, 32), "length")


def test_a_profile_of_fixed_shapes_is_what_the_first_version_reads(tmp_path: Path) -> None:
    given = profile_of("f" * 64, ("a", "b"), (1, 4), ())
    text = profile_text(given)
    assert "extents" not in text
    assert yaml.safe_load(text)["version"] == 1
    (tmp_path / "p.yaml").write_text(text)
    found = read_profile(tmp_path / "p.yaml")
    assert found == given
    assert (found.sizes, found.extents, found.dim) == ((1, 4), (), None)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda items: items.pop(), "expected each at the same extents of one dimension"),
        (lambda items: items[0].pop("extents"), "expected "),
        (lambda items: items[0].update(extents={"width": 2}), "at the same extents of one dimension"),
        (lambda items: items[0].update(extents={"length": 0}), "expected one size or more, ascending"),
        (lambda items: [item.update(extents={"length": 2, "w": 2}) for item in items], "expected "),
        (lambda items: items.reverse(), "expected one size or more, ascending"),
        (lambda items: items[0].update(extents={"length": "x"}), "microbatches.0.extents.length"),
    ],
)
def test_sizes_that_are_no_grid(tmp_path: Path, edit: Callable[[Any], object], message: str) -> None:
    document = yaml.safe_load(profile_text(profile_of("f" * 64, ("a", "b"), (1, 4), (2, 8))))
    edit(document["microbatches"])
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(document))))
    with pytest.raises(UserError, match=message):
        read_profile(tmp_path / "p.yaml")


# --- between the sizes -----------------------------------------------------------------------------------------------


def work() -> SizedWork:
    """Of a unit that works a position, and one that works a pair of positions: of the batches 2 and 4, at 2, 17, 32."""
    extents = np.array([2.0, 17.0, 32.0])
    flops = np.stack([np.outer([2.0, 4.0], extents), np.outer([2.0, 4.0], extents**2)])
    return SizedWork(dim="length", extents=(2, 17, 32), flops=flops, moved_bytes=flops / 4)


def by_work(unit: int, batch: int, extent: int) -> float:
    """A call and the unit's work."""
    return 2e-3 + 1e-6 * batch * (extent, extent**2)[unit]


def grid(wall_s: Seconds = by_work) -> SizeGrid:
    cluster: Cluster = request_of(compose([*WORDS])).cluster
    found = profile_of("f" * 64, ("linear", "attention"), (1, 4, 16), (2, 8, 32), wall_s)
    return SizeGrid(found, work(), cluster.devices[0])


def test_measured_sizes_have_the_measured_values() -> None:
    def uneven(unit: int, batch: int, extent: int) -> float:
        return 1e-3 * (7 + unit * 3 + (batch * 31 + extent * 17) % 11)

    found = grid(uneven)
    for batch, extent in product((1, 4, 16), (2, 8, 32)):
        assert found.contains(batch, extent)
        expected = [uneven(unit, batch, extent) for unit in range(2)]
        assert found.at(batch, extent, lambda item: item.wall_s).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_call_and_its_work_are_met_between_them() -> None:
    found = grid()
    for batch, extent in product((1, 2, 5, 16), (2, 3, 7, 9, 20, 31)):
        expected = [by_work(unit, batch, extent) for unit in range(2)]
        assert found.at(batch, extent, lambda item: item.wall_s).tolist() == pytest.approx(expected, rel=1e-9)


def test_outside_the_nearest_grows_with_the_roofline() -> None:
    found = grid()
    assert not found.contains(32, 8)
    assert not found.contains(4, 1)
    near, far = (found.at(batch, 32, lambda item: item.wall_s) for batch in (16, 32))
    assert (far > near).all()
    assert (far < 2.01 * near).all()


# --- the times of a plan ---------------------------------------------------------------------------------------------


def test_a_mix_has_the_mean_of_what_its_messages_take(chain: Chain, tmp_path: Path) -> None:
    written(tmp_path, chain, (1, 4), (1, 8, MOST))
    mix = mix_of(chain, (1, 8), (4, 8), (4, 8), (2, 20))
    found = costs(tmp_path, chain, mix)
    assert found.of_mix == {"local"}
    linear = [unit for unit in chain.units if unit.kind == "linear"]
    assert len(linear) >= 4
    for unit in linear:
        each = [seconds(unit.index, *size) for size in ((1, 8), (4, 8), (4, 8), (2, 20))]
        assert found.unit_s["local"][unit.index] == pytest.approx(sum(each) / 4, rel=1e-4)  # five digits in the file
    assert found.activation_bytes == tuple(1000 * 4 * MOST for _ in chain.units)
    assert "microbatch 1, 4 at length 1, 8, 32; other sizes are interpolated" in found.notes[0]


def test_where_all_messages_have_measured_sizes_nothing_is_interpolated(chain: Chain, tmp_path: Path) -> None:
    written(tmp_path, chain, (1, 4), (1, 8, MOST))
    found = costs(tmp_path, chain, mix_of(chain, (1, 8), (4, MOST)))
    expected = [(seconds(unit, 1, 8) + seconds(unit, 4, MOST)) / 2 for unit in range(len(chain.units))]
    assert found.unit_s["local"] == pytest.approx(expected, rel=1e-4)
    assert "interpolated" not in found.notes[0]
    call_s = found.wires["local"].decode_s(chain.boundaries[0], FORMATS["fp32"])
    assert call_s == pytest.approx((1e-4 + 4e-4) / 2)  # of each message, on average


def test_without_a_workload_times_are_of_the_largest(chain: Chain, tmp_path: Path) -> None:
    written(tmp_path, chain, (1, 4), (1, 8, MOST))
    found = costs(tmp_path, chain, None)
    assert found.unit_s["local"] == pytest.approx(of_largest(chain), rel=1e-4)


def test_a_profile_of_the_largest_extents_follows_the_roofline_and_says_so(chain: Chain, tmp_path: Path) -> None:
    written(tmp_path, chain, (1, 4), ())
    largest = costs(tmp_path, chain, None)
    assert largest.unit_s["local"] == pytest.approx(of_largest(chain), rel=1e-4)
    found = costs(tmp_path, chain, mix_of(chain, (4, 8)))
    assert not found.of_mix
    assert all(one <= most for one, most in zip(found.unit_s["local"], largest.unit_s["local"], strict=True))
    assert "smaller sizes were not measured: scaled by the data sheet" in found.notes[0]


def test_sizes_outside_of_the_measured_ones(chain: Chain, tmp_path: Path) -> None:
    written(tmp_path, chain, (2, 4), (4, MOST))
    with pytest.raises(UserError, match=r"microbatch 1 is outside the measured ones \(2, 4 at length 4, 32\): .*"
                       r"profile.microbatches=\[...\], or take profile.outside=analytic"):  # fmt: skip
        costs(tmp_path, chain, mix_of(chain, (1, 8)))
    with pytest.raises(UserError, match=r"length 2 is outside the measured ones .*profile.extents=\[...\]"):
        costs(tmp_path, chain, mix_of(chain, (4, 8), (4, 2)))
    found = costs(tmp_path, chain, mix_of(chain, (4, 8), (4, 2)), "profile.outside=analytic")
    assert "50% of the messages lie outside of these sizes: scaled by the data sheet" in found.notes[0]


def test_the_best_microbatch_is_one_that_was_measured(chain: Chain, tmp_path: Path) -> None:
    written(tmp_path, chain, (2, 4), (1, MOST))
    request = request_for(tmp_path, "microbatch=auto", "workload={length: [8]}")
    golden, data = captured_chain(WORDS, 4)[1], DataSpec(kind="tensor", result="array")
    found = choose_microbatch(request, chain, golden, data, {"x": 0.0})
    assert found.microbatch == 4
    assert "; not measured: 1, 8, 16, 32, 64" in found.note  # at 1 the model has other units too
    with pytest.raises(UserError, match="the profile of another custom than this model"):
        costs_of(at_microbatch(request, 1), captured_chain(WORDS, 1)[0], golden, None)


def test_a_chain_of_fixed_shapes_takes_what_was_measured_at_the_largest(chain: Chain, tmp_path: Path) -> None:
    written(tmp_path, chain, (1, 4), (1, 8, MOST))
    fixed = replace(chain, captured=replace(chain.captured, sampling=None))
    found = costs(tmp_path, fixed, None)
    assert found.unit_s["local"] == pytest.approx(of_largest(chain), rel=1e-4)


# --- what is measured ------------------------------------------------------------------------------------------------


def test_extents_are_few_unless_they_are_named() -> None:
    request = measure_of(compose(["model=minilm"]))
    assert (request.dim, request.extents, request.named_extents) == ("length", (1, 8, 43, 128), False)
    request = measure_of(compose(["model=minilm", "profile.extents=[64,8,8]"]))
    assert (request.extents, request.named_extents) == ((8, 64, 128), True)  # memory is of the largest
    request = measure_of(compose(["model=minilm", "+model.dims.length.min=20", "model.dims.length.max=60"]))
    assert request.extents == (20, 60)
    assert measure_of(compose(["model=vit_base"])).dim is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model=minilm", "profile.extents=[0,8]"), r"invalid value \[0, 8\] for profile.extents: expected extents of "
                                                    "length, 1 to 128"),
        (("model=minilm", "profile.extents=[256]"), r"invalid value \[256\] for profile.extents: .* 1 to 128"),
        (("model=vit_base", "profile.extents=[8]"), "profile.extents: items of 'vit_base' have one shape: leave"),
        (("model=custom", "model.build._target_=m.M", "model.dims={h: {max: 8}, w: {max: 8}}", "profile.extents=[8]",
          "model.inputs={x: {shape: [h, w]}}"), "profile.extents: 'custom' has several dimensions: leave it out"),
    ],
)  # fmt: skip
def test_extents_that_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure_of(compose(list(words)))


@pytest.mark.slow
def test_edgeprofile_measures_each_microbatch_at_each_extent(tmp_path: Path) -> None:
    words = (*WORDS, "profile.microbatches=[1,4]", "profile.rounds=3")
    tests = Path(__file__).parent.parent
    done = command("edgecompile.commands.profile_command", *words, folder=tmp_path, path=tests)
    assert done.returncode == 0, done.stderr
    found = read_profile(next((tmp_path / "profiles").glob("*.yaml")))
    assert (found.version, found.sizes, found.extents) == (2, (1, 4), (1, 2, 11, 32))
    assert all(min(item.wall_s) > 0 for item in found.microbatches)
    assert "microbatch" in done.stdout
    assert "length" in done.stdout
    words = (*WORDS, "microbatch=4", MEASURED, "workload={length: [3, 9, 30]}")
    done = command("edgecompile.commands.compile_command", *words, folder=tmp_path, path=tests)
    assert done.returncode == 0, done.stderr
    assert "other sizes are interpolated" in (tmp_path / "outputs" / "plan.yaml").read_text()
