"""Wire formats: what is lost is bounded, bytes are what the plan says, integers and bools pass unchanged."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from compiler_helpers import Compile, hand_written, schedule_of
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.errors import UserError
from edgecompile.passes.wire import CLIP_FACTOR, decode_tensor, encode_tensor
from edgecompile.units import BoundaryTensor
from edgecompile.wire import FORMATS, wire_format, wire_tensors

LOSSY = sorted(set(FORMATS) - {"fp32"})


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(LOSSY),
    scale=st.sampled_from(["item", "channel"]),
    clipping=st.booleans(),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    seed=st.integers(0, 2**31),
)
def test_round_trip(name: str, scale: str, clipping: bool, shape: tuple[int, ...], seed: int) -> None:
    wire = wire_format(name, "wire.format", scale, clipping)
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    parts = encode_tensor(value, shape, wire)
    tensor = BoundaryTensor(node=None, name="t", shape=shape, dtype="float32", num_bytes=0)  # type: ignore[arg-type]
    specs = wire_tensors(tensor, wire)
    assert [tuple(part.shape) for part in parts] == [spec.shape for spec in specs]
    assert [str(part.dtype).removeprefix("torch.") for part in parts] == [spec.dtype for spec in specs]
    decoded = decode_tensor(parts, shape, wire)
    assert decoded.shape == value.shape
    if not wire.is_integer:
        assert torch.allclose(decoded, value, rtol=2**-8, atol=1e-6)
    elif not (clipping and wire.bits in CLIP_FACTOR):
        rows = value.reshape(shape[0], -1)
        step = (rows.max(1).values - rows.min(1).values) / (2**wire.bits - 1)
        assert bool(((decoded - value).reshape(shape[0], -1).abs() <= step[:, None] * 0.5001 + 1e-6).all())


def test_items_do_not_share_a_scale() -> None:
    """One item's outlier must not cost the others their precision."""
    value = torch.randn(3, 50)
    value[1] *= 1e6
    wire = wire_format("int8", "wire.format")
    decoded = decode_tensor(encode_tensor(value, (3, 50), wire), (3, 50), wire)
    assert float((decoded[0] - value[0]).abs().max()) < 0.03


@pytest.mark.parametrize("bits", CLIP_FACTOR)
def test_clip_factor_is_the_minimum(bits: int) -> None:
    def expected_error(reach: float) -> float:
        return 2 * math.exp(-reach) + reach**2 / (3 * 4**bits)

    best = min((index / 1000 for index in range(500, 15000)), key=expected_error)
    assert CLIP_FACTOR[bits] == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("name", ["int2", "int4"])
def test_clipping_lowers_the_error_of_heavy_tails(name: str) -> None:
    torch.manual_seed(0)
    value = torch.distributions.Laplace(0.0, 1.0).sample((1, 20000))
    wire = FORMATS[name]
    errors = [
        float((decode_tensor(encode_tensor(value, (1, 20000), choice), (1, 20000), choice) - value).pow(2).mean())
        for choice in (wire, replace(wire, clipping=False))
    ]
    assert errors[0] < 0.5 * errors[1]


def test_constant_and_empty_ranges() -> None:
    for name in LOSSY:
        value = torch.full((2, 6), 3.25)
        decoded = decode_tensor(encode_tensor(value, (2, 6), FORMATS[name]), (2, 6), FORMATS[name])
        assert torch.allclose(decoded, value)


FORKED = (*hand_written("Forked"), "schedule=even", "hosts.count=3", "microbatch=2")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_compiles_and_says_what_travels(compile_here: Compile, name: str) -> None:
    plan = compile_here(*FORKED, f"wire={name}")
    sent = [spec for stage in plan.stages[:-1] for spec in stage.outputs]
    assert {spec.dtype for spec in sent} >= {"int64"}
    if name != "fp32":
        assert not any(spec.dtype == "float32" and not spec.name.endswith(".scale") for spec in sent)
        assert any(spec.wire == name for spec in sent)


def test_a_format_for_each_cut(compile_here: Compile) -> None:
    plan = compile_here(*FORKED, "wire.per_cut=[int8,fp16]")
    assert {spec.wire for spec in plan.stages[0].outputs} == {"raw", "int8"}
    assert {spec.wire for spec in plan.stages[1].outputs} == {"raw", "fp16"}


def test_fewer_bytes_shorten_the_period_of_a_slow_link() -> None:
    slow = ("hosts.members.local.bandwidth=10Mbps", "schedule=manual", "schedule.cuts=[deit.layers.6]")
    periods = {name: schedule_of(("model=deit_tiny",), *slow, f"wire={name}").period_s
               for name in ("fp32", "fp16", "int8")}  # fmt: skip
    assert periods["fp32"] > 1.9 * periods["fp16"] > 3.5 * periods["int8"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["wire.format=int5"], r"wire\.format: 'int5'.*int4"),
        (["wire.per_cut=[int8]"], "names 1 formats, but there are 2 cuts"),
        (["wire.per_cut=[int8,int5]"], r"wire\.per_cut: 'int5'"),
        (["wire.scale=row"], r"wire\.scale"),
        (["schedule=exact", "wire.per_cut=[int8,int8]"], "schedule=exact chooses the cuts itself"),
    ],
)
def test_wrong_formats(compile_here: Compile, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compile_here(*FORKED, *overrides)
