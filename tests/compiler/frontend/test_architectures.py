"""Forty architectures of transformers, in tiny configurations: the shards give each item what the eager model gives it
alone. The table, and the other architectures, are benchmarks/architectures.py's."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("architectures", BENCHMARKS / "architectures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


architectures = benchmark()
TABLE = architectures.entries("transformers")
TESTED = [entry for entry in TABLE if entry.tests]


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len(TABLE) >= 80
    assert len(TESTED) >= 40
    assert len(architectures.entries("timm")) >= 20


@pytest.mark.parametrize("entry", TESTED, ids=lambda entry: entry.name)
def test_an_architecture_at_three_stages(tmp_path: Path, entry: object) -> None:
    found = architectures.check(entry, tmp_path)
    assert len(found.plan.stages) == 3
    assert set(found.plan.golden.tolerance) == {spec.name for spec in found.plan.outputs}
    assert found.share <= 1, f"{found.difference:.3g} of the largest value"
