"""Native products of codes give what the operators that every machine runs give, row by row, alone and in one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from edgecompile.artifacts.weight_codes import weight_codes
from edgecompile.execution.fusion.fused_products import FusedProducts, Operand, Product, one_product
from edgecompile.execution.fusion.native_code import native
from edgecompile.execution.fusion.product_kinds import EIGHT_BITS, FOUR_BITS, Codes, Kind, WeightRoom
from edgecompile.execution.low_precision import linear_int8
from edgecompile.execution.row_kernels import normalize_rows
from edgecompile.execution.weight_only import OPERATORS

pytestmark = pytest.mark.skipif(native is None, reason="the native module is not built")
needs_eight = pytest.mark.skipif(not EIGHT_BITS.runs(), reason="needs instructions for eight bits")
each_kind = pytest.mark.parametrize(
    "kind", [pytest.param(EIGHT_BITS, marks=needs_eight, id="8"), pytest.param(FOUR_BITS, id="4")]
)
SHAPES = [(16, 32), (1, 64), (40, 576), (192, 96), (577, 256)]
WIDTH, INNER = 64, 96


def codes(kind: Kind, out: int, into: int, bias: torch.Tensor | None = None) -> Codes:
    generator = torch.Generator().manual_seed(out)
    if kind is FOUR_BITS:
        return Codes(**weight_codes(torch.randn(out, into, generator=generator) / 8, 4), bias=bias)
    whole = torch.randint(-127, 128, (out, into), dtype=torch.int8, generator=generator)
    return Codes(whole, torch.rand(out, generator=generator) / 100, bias)


def by_torch(kind: Kind, x: torch.Tensor, of: Codes) -> torch.Tensor:
    compute = OPERATORS["linear_weights4"] if kind is FOUR_BITS else linear_int8
    return compute(x, of.codes, of.scale, of.bias)


# --- one product -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "into"), SHAPES)
def test_products_of_four_bits_are_those_of_the_operator(out: int, into: int) -> None:
    made, x = codes(FOUR_BITS, out, into), torch.randn(2, 35, into)
    (found,), wanted = one_product(FOUR_BITS, made)([x]), by_torch(FOUR_BITS, x, made)
    assert torch.equal(found, found.to(torch.bfloat16).float())
    torch.testing.assert_close(found, wanted, atol=1e-2, rtol=2**-7)
    assert float((found != wanted).double().mean()) < 0.05  # sums in another order hardly ever round otherwise
    assert FOUR_BITS.packed_size(out, into) == -(-out // 16) * (into // 32) * 320  # 5 bits a weight


@needs_eight
@pytest.mark.parametrize(("out", "into"), [*SHAPES, (7, 33)])
def test_products_of_eight_bits_are_those_of_the_operator(out: int, into: int) -> None:
    made, x = codes(EIGHT_BITS, out, into), torch.randn(2, 35, into)
    (found,), wanted = one_product(EIGHT_BITS, made)([x]), by_torch(EIGHT_BITS, x, made)
    far = ((found - wanted).abs() > 1e-4).any(-1).sum()  # a number between two codes may become the other one
    assert int(far) <= 2
    torch.testing.assert_close(found, wanted, atol=0.5, rtol=0.1)
    assert EIGHT_BITS.packed_size(out, into) == -(-out // 64) * 64 * -(-into // 4) * 4


@each_kind
def test_channels_of_several_products_are_one_after_the_other(kind: Kind) -> None:
    parts = [codes(kind, out, WIDTH, torch.randn(out)) for out in (3, 70, 16)]
    size = kind.packed_size(89, WIDTH)
    joined = kind.pack(parts, WeightRoom([size]).take(size))
    x = torch.randn(9, WIDTH)
    (found,) = FusedProducts([WIDTH], [Product(weights=joined, x=Operand(0))], [True])([x])
    assert torch.equal(found, torch.cat([one_product(kind, part)([x])[0] for part in parts], -1))


@each_kind
def test_nothing_of_the_codes_is_kept(kind: Kind) -> None:
    made, x = codes(kind, 48, 96, torch.randn(48)), torch.randn(5, 96)
    product = one_product(kind, made)
    (before,) = product([x])
    for value in (made.codes, made.scale, made.bias):
        assert value is not None
        value.zero_()
    assert torch.equal(product([x])[0], before)


@each_kind
def test_a_row_depends_on_no_other_and_not_on_how_many_there_are(kind: Kind) -> None:
    product, x = one_product(kind, codes(kind, 48, 96)), torch.randn(130, 96)
    (whole,) = product([x])
    for begin, count in ((0, 1), (17, 2), (40, 3), (5, 8), (64, 64), (1, 129)):
        assert torch.equal(product([x[begin : begin + count]])[0], whole[begin : begin + count])


@each_kind
def test_a_number_that_is_not_finite_spoils_its_own_row_alone(kind: Kind) -> None:
    product, x = one_product(kind, codes(kind, 16, 64)), torch.randn(3, 64)
    (whole,) = product([x])
    x[1, 5] = torch.inf
    (spoiled,) = product([x])
    assert not torch.isfinite(spoiled[1]).any()
    assert torch.equal(spoiled[::2], whole[::2])


def test_weights_lie_in_lines_of_their_own_behind_each_other() -> None:
    room = WeightRoom([100, 64, 1])
    places = [room.take(size) for size in (100, 64, 1)]
    assert [len(place) for place in places] == [100, 64, 1]
    assert [place.data_ptr() - places[0].data_ptr() for place in places] == [0, 128, 192]
    assert places[0].data_ptr() % (1 << 21) == 0


@each_kind
def test_several_threads_leave_products_to_torch(kind: Kind) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert not kind.runs()
        torch.set_num_threads(1)
        assert kind.runs()
    finally:
        torch.set_num_threads(before)


# --- several ---------------------------------------------------------------------------------------------------------


class Layer:
    """The second half of a layer: a product added to what was there, then a gated perceptron."""

    def __init__(self, kind: Kind, *, biased: bool) -> None:
        torch.manual_seed(0)
        self.kind = kind
        shapes = ((WIDTH, WIDTH), (2 * INNER, WIDTH), (WIDTH, INNER))
        self.codes = [codes(kind, *shape, torch.randn(shape[0]) if biased else None) for shape in shapes]
        self.normalizing = torch.randn(WIDTH)
        sizes = [kind.packed_size(*shape) for shape in shapes]
        room = WeightRoom(sizes)
        first, second, third = (
            kind.pack([made], room.take(size)) for made, size in zip(self.codes, sizes, strict=True)
        )
        products = [
            Product(weights=first, x=Operand(0), added=Operand(1)),
            Product(weights=second, x=Operand(2), normalizing=self.normalizing, epsilon=1e-5),
            Product(weights=third, x=Operand(3), gated=Operand(3, INNER), added=Operand(2)),
        ]
        self.fused = FusedProducts([WIDTH, WIDTH], products, [True, False, True])

    def by_torch(self, x: torch.Tensor, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        middle = by_torch(self.kind, x, self.codes[0]) + before
        inner = by_torch(self.kind, normalize_rows(middle, self.normalizing, 1e-5), self.codes[1])
        gated = functional.silu(inner[..., :INNER]) * inner[..., INNER:]
        return middle, by_torch(self.kind, gated, self.codes[2]) + middle


def near(found: Any, wanted: Any) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, atol=0.5, rtol=0.1)  # a number between two codes may become the other
        assert one.numel() == 0 or float((one - other).abs().mean()) < 0.02


@each_kind
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("ahead", [(1,), (0,), (3, 1), (2, 5), (7,), (260,), (2, 2, 2)])
def test_fused_products_compute_what_torch_does(kind: Kind, ahead: tuple[int, ...], *, biased: bool) -> None:
    layer = Layer(kind, biased=biased)
    wide = torch.randn(*ahead, WIDTH + 9)
    for x in (torch.randn(*ahead, WIDTH), wide[..., 4 : 4 + WIDTH]):  # contiguous, and a part of something wider
        before = torch.randn(*ahead, WIDTH)
        near(layer.fused([x, before]), layer.by_torch(x, before))


@each_kind
def test_a_row_of_fused_products_depends_on_no_other(kind: Kind) -> None:
    layer = Layer(kind, biased=True)
    x, before = torch.randn(23, WIDTH), torch.randn(23, WIDTH)
    x[3] *= 1e6
    x[5, 7], x[6, 0] = float("nan"), float("inf")
    together = layer.fused([x, before])
    for begin in range(23):
        for end in (begin + 1, begin + 4, begin + 9):
            for found, whole in zip(layer.fused([x[begin:end], before[begin:end]]), together, strict=True):
                assert torch.equal(found.nan_to_num(nan=7.0), whole[begin:end].nan_to_num(nan=7.0))
    for whole in together:
        assert not whole[[5, 6]].isfinite().any()
        assert whole[[*range(5), *range(7, 23)]].isfinite().all()


@each_kind
@pytest.mark.parametrize(
    ("of_x", "of_before"),
    [((1, 3, WIDTH), (4, 3, WIDTH)), ((2, 3, WIDTH), (1,)), ((2, 3, WIDTH), ()), ((WIDTH,), (2, 1, WIDTH)),
     ((5, 2, 3, WIDTH), (2, 1, WIDTH))],
)  # fmt: skip
def test_values_of_unlike_shapes_broadcast_as_torch_has_it(
    kind: Kind, of_x: tuple[int, ...], of_before: tuple[int, ...]
) -> None:
    layer = Layer(kind, biased=False)
    x, before = torch.randn(of_x), torch.randn(of_before)
    near(layer.fused([x, before]), layer.by_torch(x, before))


@each_kind
def test_a_result_has_the_shape_of_what_it_is_made_of(kind: Kind) -> None:
    made = codes(kind, 16, WIDTH)
    size = kind.packed_size(16, WIDTH)
    weights = kind.pack([made], WeightRoom([size]).take(size))
    products = [Product(weights=weights, x=Operand(0)), Product(weights=weights, x=Operand(0), added=Operand(1))]
    x, other = torch.randn(1, 3, WIDTH), torch.randn(4, 1, 16)
    alone, added = FusedProducts([WIDTH, 16], products, [True, True])([x, other])
    near([alone, added], [by_torch(kind, x, made), by_torch(kind, x, made) + other])


@each_kind
def test_other_floats_are_converted(kind: Kind) -> None:
    layer, x, before = Layer(kind, biased=False), torch.randn(3, WIDTH), torch.randn(3, WIDTH).to(torch.bfloat16)
    near(layer.fused([x, before]), layer.by_torch(x, before))


@each_kind
def test_operands_that_are_no_part_of_a_value_are_refused(kind: Kind) -> None:
    size = kind.packed_size(16, WIDTH)
    weights = kind.pack([codes(kind, 16, WIDTH)], WeightRoom([size]).take(size))
    for operand in (Operand(0, 1), Operand(1), Operand(-1)):
        with pytest.raises(ValueError, match="does not fit the values before it"):
            FusedProducts([WIDTH], [Product(weights=weights, x=operand)], [True])
