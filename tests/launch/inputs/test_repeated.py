"""An input that is read several times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from launch_harness import run
from launch_plans import Written

from edgecompile.contract.errors import UserError
from edgelaunch.common.items import Item
from edgelaunch.inputs.open_input import open_source
from edgelaunch.request.run_request import RunRequest


@pytest.fixture
def five(two_stages: Written, tmp_path: Path) -> tuple[Path, np.ndarray]:
    spec = two_stages.plan.inputs[0]
    values = np.random.default_rng(0).standard_normal((5, *spec.shape[1:])).astype(spec.dtype)
    np.save(tmp_path / "five.npy", values)
    return tmp_path / "five.npy", values


@pytest.mark.parametrize(("limit", "count"), [(None, 15), (7, 7), (100, 15)])
def test_items_are_numbered_on(
    two_stages: Written, five: tuple[Path, np.ndarray], limit: int | None, count: int
) -> None:
    path, values = five
    source = open_source(two_stages.plan, path.parent, path, limit, times=3)
    items = [item for item in source.items if isinstance(item, Item)]
    assert source.num_items == len(items) == count
    assert [item.entry.index for item in items] == list(range(count))
    for number, item in enumerate(items):
        np.testing.assert_array_equal(np.asarray(next(iter(item.arrays.values()))), values[number % 5])


@pytest.mark.slow
def test_a_run_has_results_of_each_time(two_stages: Written, five: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    run(two_stages.path, "--local", "--input", five[0], "--repeat", "3", "--output", tmp_path / "r.npy").expect(0)
    results = np.load(tmp_path / "r.npy")
    assert len(results) == 15
    np.testing.assert_allclose(results[:5], results[5:10], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(results[:5], results[10:], rtol=1e-5, atol=1e-6)


def test_what_cannot_be_read_again() -> None:
    for values in ({"input": Path("-")}, {}):
        with pytest.raises(UserError, match="--repeat reads an --input again"):
            RunRequest(plan_path=Path("plan.yaml"), rank=0, repeat=2, **values)
    with pytest.raises(UserError, match="invalid value 0 for --repeat"):
        RunRequest(plan_path=Path("plan.yaml"), input=Path("x.npy"), repeat=0)
