"""microbatch=auto: the limit of items a message with the best predicted throughput, within memory and latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from edgecompile.profile.measured import NotMeasured
from edgecompile.profile.mix import items_of
from edgecompile.profile.workload import costs_of, workload_mix
from edgecompile.wire.exact_tensors import keep_exact

__all__ = ["CANDIDATES", "at_microbatch", "choose_microbatch"]

CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
_WORTH = 1.01
"""So much faster a larger message must be, which takes more memory and makes its first item wait."""


def at_microbatch(request: CompileRequest, microbatch: int) -> CompileRequest:
    profile = replace(request.profile, microbatch=microbatch)
    return replace(request, microbatch=microbatch, profile=profile, auto_microbatch=False)


def choose_microbatch(
    request: CompileRequest, chain: Chain, golden: Sequence[torch.Tensor], data: DataSpec, padding: Mapping[str, float]
) -> tuple[int, str]:
    """The number, and a note that says what it was chosen from.

    Args:
        chain: at any microbatch.
        golden: a tensor an input, the golden items first.

    Raises:
        UserError: the model's batch does not vary, or no candidate fits or was measured; says why of the smallest.
    """
    if chain.captured.sampling is None:
        raise UserError(
            f"the model's sizes are fixed ({chain.captured.why_fixed or request.capture.fixed})",
            key="microbatch=auto", fix="give a number",
        )  # fmt: skip
    found: dict[int, float] = {}
    reasons: list[UserError] = []
    unmeasured: list[int] = []
    for microbatch in CANDIDATES:
        try:
            found[microbatch] = _items_per_s(at_microbatch(request, microbatch), chain, golden, data, padding)
        except Infeasible as reason:
            reasons.append(reason)
        except NotMeasured as reason:
            reasons.append(reason)
            unmeasured.append(microbatch)
    if not found:
        raise reasons[0]
    best = 0
    for microbatch, rate in found.items():
        if not best or rate > found[best] * _WORTH:
            best = microbatch
    told = ", ".join(f"{microbatch}: {format_items_rate(rate)}" for microbatch, rate in found.items())
    if unmeasured:
        told += f"; not measured: {', '.join(map(str, unmeasured))}"
    return best, f"microbatch=auto took {best} of the predictions {told}"


def _items_per_s(
    request: CompileRequest, chain: Chain, golden: Sequence[torch.Tensor], data: DataSpec, padding: Mapping[str, float]
) -> float:
    """Raises Infeasible where no plan of this microbatch fits."""
    captured, microbatch = chain.captured, request.microbatch
    assert captured.sampling is not None
    examples = tuple(value[torch.arange(microbatch) % len(value)] for value in golden)
    dims = {**captured.sampling.dims, BATCH: Dim(min=1, max=microbatch)}
    sampling = replace(captured.sampling, dims=dims)
    sampling.settle(captured.graph_module, examples)
    sized = keep_exact(build_chain(replace(captured, sampling=sampling)), golden, microbatch, request.wire.may_lose)
    mix = workload_mix(request, sized, data, padding)
    inputs = planning_inputs(request, sized, costs_of(request, sized, examples, mix), mix)
    schedule = partition(inputs, sized, request.schedule)
    return items_of(mix, microbatch) / schedule.period_s
