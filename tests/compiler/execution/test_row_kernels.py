"""What native code computes between products is what torch's operators do, whatever the rows' distance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompile.execution import row_kernels

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
