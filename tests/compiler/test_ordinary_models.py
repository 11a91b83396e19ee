"""What ordinary models do that once ended in a traceback or a wrong result: each compiles at every cut and is equal.

compile_model() compares with the eager model in float64; the number of stages is that of the units, so that every
boundary that can be cut is cut.
"""

from __future__ import annotations

import pytest
from compiler_helpers import Compile

X = "{x: {shape: [%d, 16], dtype: float32}}"
SHAPES = {"Square": 4}
CASES = [
    ("LastSteps", 4), ("Spectrum", 2), ("Rotary", 2), ("Windows", 2), ("Eighths", 2), ("Scaled", 1), ("TimeFirst", 3),
    ("Decomposed", 2), ("Routed", 2), ("InPlaceLayers", 2), ("Square", 4),
]  # fmt: skip


def overrides(name: str, *more: str) -> tuple[str, ...]:
    inputs = X % SHAPES.get(name, 6)
    return "model=custom", f"model.build._target_=ordinary.{name}", f"model.inputs={inputs}", "schedule=even", *more


@pytest.mark.parametrize(("name", "microbatch"), CASES)
def test_every_cut_of_an_ordinary_model(compile_here: Compile, name: str, microbatch: int) -> None:
    plan = compile_here(*overrides(name, "hosts.count=99", f"microbatch={microbatch}"))
    assert len(plan.stages) == 1 + sum(unit.cuttable for unit in plan.units[1:])
    assert all(tolerance < 1e-3 for tolerance in plan.golden.tolerance.values())
