"""Wire formats: what is lost is bounded, bytes are what the plan says, integers and bools pass unchanged."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from compiler_helpers import Compile, hand_written, schedule_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgecompile.commands.compile_command import compose
from edgecompile.config.cluster_spec import cluster_of
from edgecompile.contract.errors import UserError
from edgecompile.frontend.chain.units import Boundary, BoundaryTensor
from edgecompile.wire.codec import CLIP_FACTOR, decode_tensor, encode_tensor
from edgecompile.wire.formats import FORMATS, decode_s, encode_s, wire_format, wire_tensors

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
    wire = wire_format(name, scale, clipping)
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
    wire = wire_format("int8")
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


def lost(value: torch.Tensor, name: str, scale: str, clipping: bool) -> torch.Tensor:
    wire, shape = wire_format(name, scale, clipping), tuple(value.shape)
    return decode_tensor(encode_tensor(value, shape, wire), shape, wire) - value


@pytest.mark.parametrize("name", ["int6", "int4", "int2"])
def test_outliers_that_weigh_more_than_finer_steps_are_not_clipped(name: str) -> None:
    """A channel in a hundred is twenty times as large and holds most of what there is."""
    value = torch.randn((2, 64, 200), generator=torch.Generator().manual_seed(0))
    value[..., ::100] *= 20
    ours, plain = (float(lost(value, name, "item", clipping).norm()) for clipping in (True, False))
    assert ours < 1.01 * plain


def test_two_bits_a_channel_keep_the_tokens_that_differ() -> None:
    """Words among padding: they must lose no more than between the extremes, and all tokens together less."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn((4, 128, 32), generator=generator) * 0.1
    value[:, :12] += torch.randn((4, 12, 32), generator=generator)
    ours, plain = (lost(value, "int2", "channel", clipping) for clipping in (True, False))
    assert float(ours[:, :12].norm()) < float(plain[:, :12].norm())
    assert float(ours.norm()) < float(plain.norm())


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["int8", "int6", "int4", "int2"]), shape=st.lists(st.integers(1, 40), min_size=1, max_size=4)
)
def test_scales_never_outweigh_codes(name: str, shape: list[int]) -> None:
    """But for one offset and step an item."""
    tensor = BoundaryTensor(node=None, name="t", shape=tuple(shape), dtype="float32", num_bytes=0)  # type: ignore[arg-type]
    codes, scale = wire_tensors(tensor, wire_format(name, "channel"))
    assert scale.shape[-1] == 1 or scale.num_bytes <= codes.num_bytes


class Traffic(TorchDispatchMode):
    """Counts the operators that are not views, and the bytes of the tensors that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = self.num_operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, result))
            self.num_bytes += sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
            self.num_operators += 1
        return result


@pytest.mark.parametrize("clipping", [True, False])
@pytest.mark.parametrize("scale", ["item", "channel"])
@pytest.mark.parametrize("name", LOSSY)
def test_the_cost_is_that_of_the_operators(name: str, scale: str, clipping: bool) -> None:
    """What the scheduler adds for encoding and decoding, against the operators that really run."""
    wire, shape = wire_format(name, scale, clipping), (1, 512, 64)
    value = torch.randn(shape)
    tensor = BoundaryTensor(node=None, name="t", shape=shape, dtype="float32", num_bytes=value.nbytes)  # type: ignore[arg-type]
    boundary = Boundary(index=1, tensors=(tensor,), cuttable=True)
    by_bytes, by_operators = (
        replace(cluster_of(compose([])).devices[0], memory_bytes_per_s=rate, launch_s=launch_s)
        for rate, launch_s in ((1.0, 0.0), (math.inf, 1.0))
    )
    with Traffic() as encoding:
        parts = encode_tensor(value, shape, wire)
    with Traffic() as decoding:
        decode_tensor(parts, shape, wire)
    for seconds, counted in ((encode_s, encoding), (decode_s, decoding)):
        assert seconds(boundary, wire, by_bytes) == pytest.approx(counted.num_bytes, rel=0.03)
        assert seconds(boundary, wire, by_operators) == pytest.approx(counted.num_operators, abs=4)


def test_constant_and_empty_ranges() -> None:
    for name in LOSSY:
        value = torch.full((2, 6), 3.25)
        decoded = decode_tensor(encode_tensor(value, (2, 6), FORMATS[name]), (2, 6), FORMATS[name])
        assert torch.allclose(decoded, value)


FORKED = (*hand_written("Forked"), "schedule=even", "hosts.count=3", "microbatch=2")


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_compiles_and_says_what_travels(compile_here: Compile, name: str) -> None:
    plan = compile_here(*FORKED, f"wire={name}", "wire.max_error=1")  # an output crosses both cuts with two bits
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
        (["wire.format=int5"], r"'int5' for wire\.format: .*int4"),
        (["wire.per_cut=[int8]"], "names 1 formats, but there are 2 cuts"),
        (["wire.per_cut=[int8,int5]"], r"'int5' for wire\.per_cut\.1"),
        (["wire.scale=row"], r"wire\.scale"),
        (["schedule=exact", "wire.per_cut=[int8,int8]"], "schedule=exact chooses the cuts itself"),
    ],
)
def test_wrong_formats(compile_here: Compile, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compile_here(*FORKED, *overrides)
