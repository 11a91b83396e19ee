"""simulate(): a plan over time, as `edgeplan simulate`. Imports no torch."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from edgecompile.api.solving import as_plan
from edgecompile.contract.plan import Plan
from edgecompile.explore.simulate import Outcome, play

__all__ = ["simulate"]


def simulate(
    plan: Plan | str | os.PathLike[str],
    *,
    microbatches: int = 1000,
    drop: Sequence[str] = (),
    resolve: bool = False,
    rate: float | None = None,
    jitter: float = 1.0,
    warm_up: int = 0,
    warm_up_factor: float = 2.0,
    seed: int = 0,
    trace: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
    **more: Any,
) -> Outcome:
    """Runs a plan in a simulation of the runtime: bounded buffers, messages, jitter, arrivals.

    Args:
        plan: or its path.
        microbatches: how many to send.
        drop: hosts without which it is planned again.
        resolve: plan again after the changes; else the plan's stages stay.
        rate: items a second that arrive; None: whenever there is room.
        jitter: 95th percentile of compute times over their median; 1: none.
        warm_up: so many microbatches of a stage are slow, each `warm_up_factor` times.
        seed: of the jitter.
        trace: keep the times of all microbatches.
        changes: as --set names them: {"hosts.2.bandwidth": "50Mbps", "network.latency": "1ms"}.
        **more: changes, likewise.

    Returns:
        What was simulated: `simulation` has throughput (items a second), latencies and what each stage and link did
        (seconds, shares of the second half of the run), `schedule` what was predicted, `plan` the plan with the
        changes.

    Raises:
        UserError: the plan cannot be read, a change names nothing, a value is out of range, or nothing fits.
    """
    settings = [f"{key}={value}" for key, value in {**changes, **more}.items()]
    chosen = Namespace(
        microbatches=microbatches, drop=list(drop), resolve=resolve, rate=rate, jitter=jitter, warm_up=warm_up,
        warm_up_factor=warm_up_factor, seed=seed, settings=settings,
    )  # fmt: skip
    return play(as_plan(plan), chosen, trace=trace)
