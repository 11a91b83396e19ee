"""microbatch=auto: the limit of items a message with the best predicted throughput, within memory and latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from edgecompile.config.request import CompileRequest
from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import DataSpec, Dim
from edgecompile.contract.quantities import format_items_rate
from edgecompile.frontend.chain.units import Chain, build_chain
from edgecompile.partition.planning_costs import planning_inputs
from edgecompile.partition.stages import partition
from edgecompile.planning.problem import Infeasible
from edgecompile.profile.mix import items_of
from edgecompile.profile.profile_fit import NotMeasured
from edgecompile.profile.workload import costs_of, workload_mix
from edgecompile.wire.exact_tensors import keep_exact

__all__ = ["CANDIDATES", "MicrobatchChoice", "at_microbatch", "choose_microbatch"]

CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
_NEAR = 0.9
"""Of the best predicted throughput: what a smaller message has to reach, which takes less memory and is sooner done."""
_GAIN = 1.04
_IN_VAIN = 2
"""After so many doublings in a row that gain less than this factor, no larger message is looked at."""


@dataclass(frozen=True, kw_only=True)
class MicrobatchChoice:
    microbatch: int
    items_per_s: float
    note: str
    """Says what it was chosen from."""


def at_microbatch(request: CompileRequest, microbatch: int) -> CompileRequest:
    profile = replace(request.profile, microbatch=microbatch)
    return replace(request, microbatch=microbatch, profile=profile, auto_microbatch=False)


def choose_microbatch(
    request: CompileRequest, chain: Chain, golden: Sequence[torch.Tensor], data: DataSpec, padding: Mapping[str, float]
) -> MicrobatchChoice:
    """
    Args:
        chain: of any number of items up to the largest candidate.
        golden: a tensor an input, the golden items first.

    Raises:
        UserError: no candidate fits or was measured; says why of the smallest.
    """
    found: dict[int, float] = {}
    reasons: list[UserError] = []
    unmeasured: list[int] = []
    in_vain = 0
    for microbatch in CANDIDATES:
        try:
            rate = _items_per_s(at_microbatch(request, microbatch), chain, golden, data, padding)
        except NotMeasured as reason:
            reasons.append(reason)
            unmeasured.append(microbatch)
            continue
        except Infeasible as reason:
            reasons.append(reason)
            if found:
                break  # what does not fit or takes too long does not with more items either
            continue
        in_vain = in_vain + 1 if found and rate < _GAIN * max(found.values()) else 0
        found[microbatch] = rate
        if in_vain == _IN_VAIN:
            break
    if not found:
        raise reasons[0]
    best = next(microbatch for microbatch, rate in found.items() if rate >= _NEAR * max(found.values()))
    told = ", ".join(f"{microbatch}: {format_items_rate(rate)}" for microbatch, rate in found.items())
    if unmeasured:
        told += f"; not measured: {', '.join(map(str, unmeasured))}"
    note = f"microbatch=auto took {best}, the least that comes within {1 - _NEAR:.0%} of the best of {told}"
    return MicrobatchChoice(microbatch=best, items_per_s=found[best], note=note)


def _items_per_s(
    request: CompileRequest, chain: Chain, golden: Sequence[torch.Tensor], data: DataSpec, padding: Mapping[str, float]
) -> float:
    """Raises Infeasible where no plan of this microbatch fits."""
    captured, microbatch = chain.captured, request.microbatch
    assert captured.sampling is not None
    examples = tuple(value[torch.arange(microbatch) % len(value)] for value in golden)
    sampling = replace(captured.sampling, dims={**captured.sampling.dims, BATCH: Dim(min=1, max=microbatch)})
    sampling.propagate_at(captured.graph_module, examples, sampling.largest)
    sized = keep_exact(build_chain(replace(captured, sampling=sampling)), golden, microbatch, request.wire.may_lose)
    mix = workload_mix(request, sized, data, padding)
    inputs = planning_inputs(request, sized, costs_of(request, sized, examples, mix), mix)
    schedule = partition(inputs, sized, request.schedule)
    return items_of(mix, microbatch) / schedule.period_s
