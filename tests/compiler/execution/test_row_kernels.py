"""What native code computes between products is what torch's operators do, whatever the rows' distance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.execution import row_kernels
from edgecompile.execution.low_precision import linear_int8

SHAPES = ((1, 1, 64), (3, 1, 7), (2, 5, 33), (4, 48), (0, 8), (2, 3, 4, 16))


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    def run(compute: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(row_kernels, "native_runs", lambda *_: False)
            return compute()

    return run


def parts(shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Contiguous ones, and a part of something wider."""
    torch.manual_seed(len(shape) + shape[-1])
    return [torch.randn(shape), torch.randn(*shape[:-1], shape[-1] + 9)[..., 4 : 4 + shape[-1]]]


@pytest.mark.parametrize("shape", SHAPES)
def test_native_code_computes_what_torch_does(
    shape: tuple[int, ...], by_torch: Callable[[Callable[[], Any]], Any]
) -> None:
    weights = torch.randn(shape[-1])
    for x in parts(shape):
        for y in parts(shape):
            for compute in (
                lambda x=x: row_kernels.scale_rows(x),
                lambda x=x: row_kernels.normalize_rows(x, weights, 1e-5),
                lambda x=x: row_kernels.normalize_and_scale_rows(x, weights, 1e-5),
                lambda x=x, y=y: row_kernels.gate_and_scale_rows(x, y),
            ):
                torch.testing.assert_close(compute(), by_torch(compute), atol=1e-4, rtol=1e-5)


def test_one_weight_for_all_numbers_of_a_row(by_torch: Callable[[Callable[[], Any]], Any]) -> None:
    x = torch.randn(3, 2000)
    for weights in (torch.randn(1), torch.randn(1).expand(2000), torch.randn(4000)[::2]):
        for compute in (
            lambda weights=weights: row_kernels.normalize_rows(x, weights, 1e-5),
            lambda weights=weights: row_kernels.normalize_and_scale_rows(x, weights, 1e-5),
        ):
            torch.testing.assert_close(compute(), by_torch(compute), atol=1e-4, rtol=1e-5)


def test_what_an_application_has_for_a_default_changes_nothing(by_torch: Callable[[Callable[[], Any]], Any]) -> None:
    x, weights = torch.randn(2, 3, 40), torch.randn(40)
    logits = torch.randn(2, 50)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            for compute in (
                lambda: row_kernels.scale_rows(x),
                lambda: row_kernels.normalize_and_scale_rows(x, weights, 1e-5),
                lambda: row_kernels.gate_and_scale_rows(x, x + 1.0),
                lambda: row_kernels.candidates(logits, 5),
            ):
                found, wanted = compute(), by_torch(compute)
                assert [part.dtype for part in found] == [part.dtype for part in wanted]
                for one, other in zip(found, wanted, strict=True):
                    torch.testing.assert_close(one, other)
    finally:
        torch.set_default_dtype(before)


def test_several_threads_and_other_types_are_torch_s() -> None:
    x = torch.randn(2, 8)
    assert row_kernels.native_runs(x)
    assert not row_kernels.native_runs(x, x.bfloat16())
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert not row_kernels.native_runs(x)
    finally:
        torch.set_num_threads(before)


@given(st.lists(st.floats(width=32), min_size=6, max_size=6))
@settings(deadline=None)
def test_a_row_that_is_not_finite_is_known_by_its_worth_and_spoils_no_other(values: list[float]) -> None:
    x = torch.stack([torch.tensor(values), torch.arange(6.0)])
    scaled, worth = row_kernels.scale_rows(x)
    assert bool(worth[0].isfinite()) == bool(x[0].isfinite().all())
    assert worth[1] == 5.0
    torch.testing.assert_close(scaled[1], x[1] * (127 / 5))


needs_products = pytest.mark.skipif(not row_kernels.native_products_run(), reason="needs instructions for eight bits")
WIDTH, INNER = 40, 72


def weights(out: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(-127, 128, (out, size), dtype=torch.int8), torch.rand(out) / 100


def layer(*, biased: bool) -> tuple[row_kernels.Stretch, Callable[..., tuple[torch.Tensor, torch.Tensor]]]:
    """The second half of a layer and the same by torch: a product added to what was there, then a gated perceptron."""
    torch.manual_seed(0)
    shapes = ((WIDTH, WIDTH), (2 * INNER, WIDTH), (WIDTH, INNER))
    room = row_kernels.PackedWeights(shapes)
    parts = [weights(*shape) for shape in shapes]
    biases = [torch.randn(shape[0]) if biased else None for shape in shapes]
    normalizing = torch.randn(WIDTH)
    first, second, third = (
        {"packed": room.add(codes), "scale": scale, "bias": bias, "num_inputs": codes.shape[1]}
        for (codes, scale), bias in zip(parts, biases, strict=True)
    )
    operand = row_kernels.Operand
    links = [
        row_kernels.Link(x=operand(0), added=operand(1), **first),
        row_kernels.Link(x=operand(2), normalizing=normalizing, epsilon=1e-5, **second),
        row_kernels.Link(x=operand(3), gated=operand(3, INNER), added=operand(2), **third),
    ]

    def by_torch(x: torch.Tensor, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        middle = linear_int8(x, *parts[0], biases[0]) + before
        inner = linear_int8(row_kernels.normalize_rows(middle, normalizing, 1e-5), *parts[1], biases[1])
        gated = torch.nn.functional.silu(inner[..., :INNER]) * inner[..., INNER:]
        return middle, linear_int8(gated, *parts[2], biases[2]) + middle

    return row_kernels.Stretch([WIDTH, WIDTH], links, [True, False, True]), by_torch


@needs_products
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("ahead", [(1,), (0,), (3, 1), (2, 5), (7,), (260,), (2, 2, 2)])
def test_a_stretch_computes_what_torch_does(ahead: tuple[int, ...], *, biased: bool) -> None:
    stretch, by_torch = layer(biased=biased)
    for x in parts((*ahead, WIDTH)):
        before = torch.randn(*ahead, WIDTH)
        middle, last = stretch([x, before])
        wanted = by_torch(x, before)
        torch.testing.assert_close(middle, wanted[0], atol=1e-5, rtol=1e-5)
        # a number between two codes may become the other one
        far = ((last - wanted[1]).abs() > 1e-4).any(-1).sum()
        assert int(far) <= 1 + last.numel() // WIDTH // 50
        torch.testing.assert_close(last, wanted[1], atol=0.5, rtol=0.1)


@needs_products
def test_a_row_of_a_stretch_depends_on_no_other_nor_on_how_many_there_are() -> None:
    stretch, _ = layer(biased=True)
    x, before = torch.randn(23, WIDTH), torch.randn(23, WIDTH)
    x[3] *= 1e6
    x[5, 7], x[6, 0] = float("nan"), float("inf")
    together = stretch([x, before])
    for begin in range(23):
        for end in (begin + 1, begin + 4, begin + 9):
            for found, whole in zip(stretch([x[begin:end], before[begin:end]]), together, strict=True):
                assert torch.equal(found.nan_to_num(nan=7.0), whole[begin:end].nan_to_num(nan=7.0))
    for whole in together:
        assert whole[[5, 6]].isnan().all()
        assert whole[[*range(5), *range(7, 23)]].isfinite().all()


@needs_products
def test_values_of_unlike_shapes_broadcast_as_torch_has_it() -> None:
    stretch, by_torch = layer(biased=False)
    for x, before in ((torch.randn(1, 3, WIDTH), torch.randn(4, 3, WIDTH)), (torch.randn(2, 3, WIDTH), torch.randn(1))):
        for found, wanted in zip(stretch([x, before]), by_torch(x, before), strict=True):
            torch.testing.assert_close(found, wanted, atol=0.5, rtol=0.1)
