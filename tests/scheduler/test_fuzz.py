"""Spoiled problems through the binding: refused with ValueError, or solved; never anything else."""

from __future__ import annotations

import dataclasses
import math
import os
import random
from typing import Any

import pytest
from strategies import draw_problem

from edgecompile.planning.native_bridge import native_module, spec_of
from edgecompile.planning.problem import Objective, Problem

NUM_PROBLEMS = int(os.environ.get("EDGECOMPILE_FUZZ", "100000"))
ODD = (
    0,
    -1,
    1,
    2**31,
    2**62,
    2**62 + 1,
    2**63,
    -(2**70),
    0.5,
    1e300,
    5e-324,
    math.nan,
    math.inf,
    -math.inf,
    None,
    "x",
    True,
    (),
)


def spoil(rng: random.Random, value: Any) -> Any:
    """The value with one part of it replaced, repeated or left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = rng.choice([item.name for item in dataclasses.fields(value)])
        return dataclasses.replace(value, **{name: spoil(rng, getattr(value, name))})
    if isinstance(value, tuple) and value and rng.random() < 0.9:
        index = rng.randrange(len(value))
        if rng.random() < 0.15:
            return value[:index] + value[index + 1 :]
        if rng.random() < 0.1:
            return value + (value[index],)
        return value[:index] + (spoil(rng, value[index]),) + value[index + 1 :]
    return rng.choice(ODD)


def attempt(rng: random.Random) -> bool:
    problem: Problem = draw_problem(rng)
    for _ in range(rng.randint(1, 2)):
        problem = spoil(rng, problem)
    if rng.random() < 0.2:
        problem = dataclasses.replace(problem, objective=rng.choice(list(Objective)))
    try:
        native_module().solve(spec_of(problem))
    except ValueError:
        return False
    return True


@pytest.mark.slow
def test_spoiled_problems_never_do_harm() -> None:
    rng = random.Random(5)
    solved = sum(attempt(rng) for _ in range(NUM_PROBLEMS))
    assert 0 < solved < NUM_PROBLEMS
