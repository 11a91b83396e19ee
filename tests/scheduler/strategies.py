"""Random small problems: all link models, objectives and constraints, tight memory, ties, kinds without hosts."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from edgecompile.planning.problem import (
    HostLinks,
    Kind,
    Objective,
    PairwiseLinks,
    Pin,
    Problem,
    SchedHost,
    SharedMedium,
    SharedWeight,
)


def numbers(rng: random.Random, count: int, style: str) -> tuple[int, ...]:
    if style == "equal":
        return (rng.randint(0, 3),) * count
    if style == "few":
        return tuple(rng.choice((0, 1, 2, 5)) for _ in range(count))
    if style == "zero":
        return (0,) * count
    return tuple(rng.randint(0, 50) for _ in range(count))


def draw_kind(rng: random.Random, name: str, num_units: int, coded: bool) -> Kind:
    style = rng.choice(("equal", "few", "wide", "wide"))
    unit = rng.choice((1.0, 0.1, 1e-12, 0.37))
    return Kind(
        name=name,
        unit_s=tuple(unit * value for value in numbers(rng, num_units, style)),
        encode_s=tuple(unit * value for value in numbers(rng, num_units + 1, "few")) if coded else (),
        decode_s=tuple(unit * value for value in numbers(rng, num_units + 1, "few"))
        if coded and rng.random() < 0.7
        else (),
        runtime_bytes=rng.choice((0, 0, 7)),
    )


def draw_links(rng: random.Random, num_hosts: int) -> Any:
    model = rng.choice(("host", "host", "pairwise", "medium"))
    latency = rng.choice((0.0, 0.0, 0.5, 3.0))
    if model == "host":
        return HostLinks(latency_s=latency)
    if model == "medium":
        return SharedMedium(bandwidth_bytes_per_s=rng.choice((0.5, 1.0, 3.0, 20.0)), latency_s=latency)
    rates = rng.choice(((1.0,), (1.0, 5.0), (0.3, 1.0, 2.0, 7.0, 40.0)))
    rows = range(num_hosts)
    return PairwiseLinks(
        bandwidth_bytes_per_s=tuple(tuple(0.0 if u == v else rng.choice(rates) for v in rows) for u in rows),
        latency_s=tuple(
            tuple(rng.choice((latency, 1.0)) if rng.random() < 0.2 else latency for _ in rows) for _ in rows
        ),
    )


def draw_constraints(rng: random.Random, num_units: int, num_hosts: int) -> dict[str, Any]:
    def span() -> tuple[int, int]:
        first, last = sorted((rng.randrange(num_units), rng.randrange(num_units)))
        return first, last

    found: dict[str, Any] = {}
    if rng.random() < 0.25:
        found["pins"] = tuple(
            Pin(units=span(), hosts=tuple(rng.sample(range(num_hosts), rng.randint(1, num_hosts))))
            for _ in range(rng.randint(1, 2))
        )
    if rng.random() < 0.2:
        found["together"] = tuple(span() for _ in range(rng.randint(1, 2)))
    if rng.random() < 0.2:
        found["excluded_hosts"] = tuple(rng.sample(range(num_hosts), rng.randint(1, max(1, num_hosts // 2))))
    if rng.random() < 0.15:
        found["host_order"] = tuple(rng.sample(range(num_hosts), rng.randint(1, num_hosts)))
    if rng.random() < 0.2:
        found["max_hosts"] = rng.randint(1, num_hosts + 1)
    if rng.random() < 0.15:
        found["period_limit_s"] = rng.choice((5.0, 20.0, 60.0))
    return found


def draw_problem(rng: random.Random, *, larger: bool = False) -> Problem:
    """Small enough for brute force in about a millisecond; `larger` in about a tenth of a second."""
    num_units = rng.randint(7, 9) if larger else rng.choice((1, 2, 3, 4, 5, 6, 6, 7))
    num_hosts = rng.randint(4, 5) if larger else rng.randint(1, 4)
    num_kinds = rng.randint(1, 3)
    coded = rng.random() < 0.3
    kinds = tuple(draw_kind(rng, f"kind{k}", num_units, coded) for k in range(num_kinds))
    rates = rng.choice(((1.0,), (1.0, 4.0), (0.7, 1.0, 3.0, 9.5)))
    tight = rng.random() < 0.5
    rooms = rng.choice(((40,), (30, 80), (20, 50, 90, 120))) if tight else (10_000,)
    links = draw_links(rng, num_hosts)
    hosts = tuple(
        SchedHost(
            name=f"host{h}",
            kind=rng.randrange(num_kinds),
            memory_bytes=rng.choice(rooms),
            bandwidth_bytes_per_s=rng.choice(rates) if isinstance(links, HostLinks) or rng.random() < 0.5 else None,
        )
        for h in range(num_hosts)
    )
    objective = rng.choice((Objective.PERIOD, Objective.PERIOD, Objective.LATENCY, Objective.PERIOD_UNDER_LATENCY))
    limit = None
    if objective == Objective.PERIOD_UNDER_LATENCY or rng.random() < 0.1:
        limit = rng.choice((1.0, 20.0, 80.0, 200.0, 1000.0))
    style = rng.choice(("equal", "few", "wide"))
    edge = num_units + 1
    shared = tuple(
        SharedWeight(
            units=tuple(rng.sample(range(num_units), rng.randint(1, min(3, num_units)))), num_bytes=rng.randint(0, 40)
        )
        for _ in range(rng.choice((0, 0, 1, 2)))
    )
    weights = numbers(rng, num_units, style)
    if rng.random() < 0.3:
        parts = [rng.choice((0, 0.5, 1)) for _ in kinds]
        kinds = tuple(
            replace(kind, saved_bytes=tuple(int(part * rng.choice((1, 0)) * weight) for weight in weights))
            for kind, part in zip(kinds, parts, strict=True)
        )
    return Problem(
        kinds=kinds,
        hosts=hosts,
        links=links,
        cut_bytes=numbers(rng, edge, rng.choice(("equal", "few", "wide"))),
        weight_bytes=weights,
        activation_bytes=numbers(rng, num_units, rng.choice(("few", "zero", "wide"))),
        entry_bytes=numbers(rng, edge, rng.choice(("few", "zero", "wide"))),
        exit_bytes=numbers(rng, edge, rng.choice(("few", "zero", "wide"))),
        shared_weights=shared,
        data_host=rng.randrange(num_hosts) if rng.random() < 0.6 else None,
        objective=objective,
        latency_limit_s=limit,
        **draw_constraints(rng, num_units, num_hosts),
    )
