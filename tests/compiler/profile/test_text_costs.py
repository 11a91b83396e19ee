"""The costs of a language model's messages: by rows, tokens and context, and by the bytes of its weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compiler_helpers import compose
from test_size_grid import profile_of

from edgecompile.config.cluster_spec import Device, cluster_of
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import StateSpec
from edgecompile.frontend.chain.sized_work import SizedWork
from edgecompile.generation.text_prediction import flow_s
from edgecompile.planning.problem import Bottleneck, Schedule, StageResult
from edgecompile.profile.analytic import Products, roofline_s
from edgecompile.profile.profile_file import DeviceProfile, profile_text, read_profile
from edgecompile.profile.size_grid import SizeGrid
from edgecompile.profile.text_mix import chunk_starts

UNITS = ("a", "attend")
WORK = SizedWork(dim="length", extents=(1, 8, 16), flops=np.ones((2, 2, 3)), moved_bytes=np.ones((2, 2, 3)))


def device() -> Device:
    (found,) = cluster_of(compose(["model=minilm", "hosts.count=1"])).devices
    return found


def staircase() -> DeviceProfile:
    """One row at three extents, four rows at the first two, as a language model is measured."""
    whole = profile_of("f" * 64, UNITS, (1, 4), (1, 4, 16))
    kept = [replace(item, context=20, context_s=(0.0, 1e-6 * item.microbatch)) for item in whole.microbatches]
    return replace(whole, microbatches=tuple(item for item in kept if item.microbatch * (item.extent or 0) <= 16))


def test_many_rows_may_be_measured_with_few_tokens_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("profile") / "p.yaml"
    path.write_text(profile_text(staircase()))
    found = read_profile(path)
    assert [(item.context, item.context_s) for item in found.microbatches] == [
        (item.context, item.context_s) for item in staircase().microbatches
    ]
    assert (found.extents_of(1), found.extents_of(4)) == ((1, 4, 16), (1, 4))
    grid = SizeGrid(found, WORK, device())
    assert [grid.contains(*size) for size in ((1, 16), (4, 4), (4, 16), (2, 16), (2, 3), (5, 1))] == [
        True, True, False, False, True, False]  # fmt: skip
    entries = {(item.microbatch, item.extent): item.wall_s for item in found.microbatches}
    for size, wall_s in entries.items():
        assert grid.at(*size, lambda item: item.wall_s) == pytest.approx(wall_s)  # type: ignore[arg-type]


def test_a_profile_without_contexts_has_every_size(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("profile") / "p.yaml"
    bare = tuple(replace(item, context=0, context_s=()) for item in staircase().microbatches)
    path.write_text(profile_text(replace(staircase(), microbatches=bare)))
    with pytest.raises(UserError, match="expected each at the same extents of one dimension"):
        read_profile(path)


def test_attention_takes_longer_with_more_context_and_less_with_none() -> None:
    grid = SizeGrid(staircase(), WORK, device())
    assert grid.longer_s(1, 1, np.array([100.0, 100.0])) == pytest.approx([0.0, 1e-4])
    assert grid.longer_s(4, 1, np.array([0.0, -20.0])) == pytest.approx([0.0, -8e-5])
    unknown = profile_of("f" * 64, UNITS, (1, 4), (1, 4, 16))
    assert not SizeGrid(unknown, WORK, device()).longer_s(1, 1, np.array([9.0, 9.0])).any()


def test_counted_work_follows_the_context_up_to_the_window() -> None:
    spec = StateSpec(unit=1, layer=0, groups=2, key_size=3, value_size=5, window=11)
    work = replace(WORK, flops=1e6 * WORK.flops, moved_bytes=1e6 * WORK.moved_bytes, state=(spec,),
                   context_flops={1: 7}, usual_context=4)  # fmt: skip
    assert work.flops_at(2, 3) == pytest.approx([1e6, 1e6])
    assert work.flops_at(2, 3, (6,)) == pytest.approx([1e6, 1e6 + 2 * 3 * 7 * 2], rel=1e-9)
    assert work.flops_at(2, 3, (500,)) == pytest.approx([1e6, 1e6 + 2 * 3 * 7 * 6], rel=1e-9)
    assert work.moved_bytes_at(2, 3, (0, 4)) == pytest.approx([1e6, 1e6 - 2 * 2 * spec.token_bytes], rel=1e-9)


@pytest.mark.parametrize(("precision", "share"), [(Precision.INT8, 0.25), (Precision.BF16, 0.5), (Precision.FP32, 1.0)])
def test_weights_of_fewer_bits_are_read_faster_whatever_the_data_sheet_says(precision: Precision, share: float) -> None:
    own = replace(device(), precision=precision, speedups={}, launch_s=0.0)
    products = Products(weight_bytes={precision: {1: 4_000_000}})
    assert products.lowered(10.0, 5e6, 0, own) == (10.0, 5e6)
    flops, moved_bytes = products.lowered(2e6, 4e6, 1, own)
    assert (flops, moved_bytes) == (2e6, 4e6 * share)
    fast = replace(own, speedups={precision: 4.0})
    assert products.lowered(2e6, 4e6, 1, fast) == (5e5, 4e6 * share)
    decode = roofline_s(float(flops), float(moved_bytes), replace(own, peak_flops_per_s=1e15))
    assert decode == pytest.approx(4e6 * share / own.memory_bytes_per_s, rel=1e-3)


def test_chunks_of_a_prompt_see_what_came_before() -> None:
    assert chunk_starts(40, 16) == {(1, 16): (0, 16), (1, 8): (32,)}
    assert chunk_starts(5, 16) == {(1, 5): (0,)}


def message(*stages: tuple[float, float], send_s: float = 0.0, links_s: float = 0.0) -> Schedule:
    """Of receive and compute seconds."""
    found = tuple(
        StageResult(first=place, last=place, host=place, receive_s=receive_s, compute_s=compute_s,
                    send_s=send_s if place == len(stages) - 1 else 0.0, memory_bytes=0)
        for place, (receive_s, compute_s) in enumerate(stages)
    )  # fmt: skip
    latency_s = sum(map(sum, stages)) + send_s + links_s
    return Schedule(
        stages=found, period_s=max(compute_s for _, compute_s in stages), latency_s=latency_s,
        bottleneck=Bottleneck(kind="stage", stage=0, hosts=(0,)), certificate=None,  # type: ignore[arg-type]
    )  # fmt: skip


def test_chunks_follow_each_other_through_the_stages() -> None:
    whole = message((0.0, 3.0), (1.0, 5.0), send_s=0.5, links_s=0.25)
    assert flow_s([whole]) == pytest.approx(whole.latency_s)
    assert flow_s([whole] * 3) == pytest.approx(whole.latency_s + 2 * 5.0)
    short = message((0.0, 1.0), (0.0, 1.0))
    assert flow_s([whole, short]) == pytest.approx(3.0 + 1.0 + 5.0 + 1.0 + 0.0)  # it waits for the one before
    assert flow_s([short, whole]) == pytest.approx(1.0 + whole.latency_s)
