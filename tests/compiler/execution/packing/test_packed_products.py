"""Native products of weights of four bits give what the operator that every machine runs gives, row by row."""

from __future__ import annotations

import pytest
import torch

from edgecompile.artifacts.weight_codes import weight_codes
from edgecompile.execution.packing.packed_products import (
    Product,
    multiply_and_keep_rows,
    multiply_rows,
    native,
    pack_products,
    packs_here,
)
from edgecompile.execution.weight_only import OPERATORS

pytestmark = pytest.mark.skipif(native is None, reason="the native module is not built")


def codes(out: int, into: int) -> dict[str, torch.Tensor]:
    return weight_codes(torch.randn(out, into, generator=torch.Generator().manual_seed(out)) / 8, 4)


@pytest.mark.parametrize(("out", "into"), [(16, 32), (1, 64), (40, 576), (192, 96), (577, 256)])
def test_products_are_those_of_the_operator(out: int, into: int) -> None:
    made, x = codes(out, into), torch.randn(2, 35, into)
    packed = pack_products([Product(**made)])
    found, wanted = multiply_rows(x, None, packed, out), OPERATORS["linear_weights4"](x, **made, bias=None)
    assert torch.equal(found, found.to(torch.bfloat16).float())
    torch.testing.assert_close(found, wanted, atol=1e-2, rtol=2**-7)
    assert float((found != wanted).double().mean()) < 0.05  # sums in another order hardly ever round otherwise
    assert packed.numel() == -(-out // 16) * (into // 32) * 320 + 128  # 5 bits a weight and two records


def test_a_row_depends_on_no_other_and_not_on_how_many_there_are() -> None:
    packed, x = pack_products([Product(**codes(48, 96))]), torch.randn(130, 96)
    whole = multiply_rows(x, None, packed, 48)
    for begin, count in ((0, 1), (17, 2), (40, 3), (5, 8), (64, 64), (1, 129)):
        assert torch.equal(multiply_rows(x[begin : begin + count], None, packed, 48), whole[begin : begin + count])


def test_a_number_that_is_not_finite_spoils_its_own_row_alone() -> None:
    packed, x = pack_products([Product(**codes(16, 64))]), torch.randn(3, 64)
    whole = multiply_rows(x, None, packed, 16)
    x[1, 5] = torch.inf
    spoiled = multiply_rows(x, None, packed, 16)
    assert not torch.isfinite(spoiled[1]).any()
    assert torch.equal(spoiled[::2], whole[::2])


def test_products_behind_each_other_add_what_was_kept() -> None:
    out, back, bias, norm = codes(32, 64), codes(32, 32), torch.randn(32), torch.rand(32)
    x, kept = torch.randn(3, 2, 64), torch.randn(3, 2, 48)[..., :32]
    packed = pack_products(
        [Product(**out, bias=bias, added=True), Product(**back, norm=norm, epsilon=1e-5, added=True)]
    )
    stream = OPERATORS["linear_weights4"](x, **out, bias=bias) + kept
    normal = torch.nn.functional.rms_norm(stream, (32,), norm, 1e-5)
    wanted = OPERATORS["linear_weights4"](normal, **back, bias=None) + stream
    found, last = multiply_and_keep_rows(x, kept, packed, 32, 32)
    torch.testing.assert_close(last, stream, atol=1e-2, rtol=2**-7)
    torch.testing.assert_close(found, wanted, atol=5e-2, rtol=2**-6)
    alone, last = multiply_and_keep_rows(x, kept[:1], packed, 32, 32)
    assert torch.equal(last, multiply_and_keep_rows(x, kept[:1].expand(3, -1, -1), packed, 32, 32)[1])
    assert torch.equal(alone[0], found[0])
    with pytest.raises(ValueError, match="rows of 16 are to be added to rows of 32"):
        multiply_rows(x, kept[..., :16], packed, 32)


def test_several_threads_leave_products_to_torch() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert not packs_here()
        torch.set_num_threads(1)
        assert packs_here()
    finally:
        torch.set_num_threads(before)
