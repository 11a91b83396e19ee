"""Makes the profile of a device out of what was measured: seconds of units, the machine, wire formats and messages."""

from __future__ import annotations

import datetime
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import edgecompile
from edgecompile.config.measure_request import MeasureRequest
from edgecompile.frontend.chain.kept_state import kept_in
from edgecompile.frontend.chain.units import Chain
from edgecompile.measure.machine_costs.busy import busy_cores
from edgecompile.measure.machine_costs.item_costs import measure_candidates
from edgecompile.measure.machine_costs.machine import machine_info, measure_rates
from edgecompile.measure.machine_costs.messages import measure_messages
from edgecompile.measure.machine_costs.wires import measure_wires
from edgecompile.measure.rounds import Found, Span
from edgecompile.measure.sizes import MeasuredSize, chain_at
from edgecompile.measure.solve import Solved, solve_units, start_s
from edgecompile.profile import profile_file as file

__all__ = ["Surroundings", "device_profile", "measure_surroundings", "solved_sizes"]


def solved_sizes(
    chain: Chain, examples: Sequence[torch.Tensor], spans: Sequence[Span], found: Found, sizes: Sequence[MeasuredSize],
    threads: int,
) -> list[file.MicrobatchProfile]:  # fmt: skip
    """What each unit takes at each size. The graph has the examples' numbers from then on."""
    starts = [start_s(spans, found[size.key], threads) for size in sizes]
    entries = []
    for size in sizes:
        own, begin_s = chain_at(chain, examples, size), statistics.median(starts)
        entries.append(_entry(size, solve_units(own, spans, found[size.key], threads, begin_s)))
    chain_at(chain, examples, MeasuredSize(microbatch=len(examples[0])))
    return entries


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What stages take beside their units."""

    rates: file.Rates
    wires: tuple[file.WireCost, ...]
    messages: file.Messages
    runtime_bytes: int


def measure_surroundings(request: MeasureRequest, threads: int, chain: Chain) -> Surroundings:
    """Takes about eight seconds, most of it for two processes that exchange messages."""
    execution = request.device.execution.value
    with busy_cores(request.busy_cores):
        rates = measure_rates(execution)
        wires = tuple(measure_wires(chain, request.microbatches[-1], execution))
    messages, runtime_bytes = measure_messages(threads)
    return Surroundings(rates=rates, wires=wires, messages=messages, runtime_bytes=runtime_bytes)


def _entry(size: MeasuredSize, solved: Solved) -> file.MicrobatchProfile:
    return file.MicrobatchProfile(
        microbatch=size.microbatch,
        extents=dict(size.extents),
        rounds=solved.rounds,
        disturbed=solved.disturbed,
        call_s=solved.call_s,
        correction=solved.correction,
        checks=tuple(
            file.CheckEntry(units=check.units, measured_s=check.measured_s, predicted_s=check.predicted_s)
            for check in solved.checks
        ),
        wall_s=solved.wall_s,
        wall_q1_s=solved.wall_q1_s,
        wall_q3_s=solved.wall_q3_s,
        cpu_s=solved.cpu_s,
        context=solved.context,
        context_s=solved.context_s,
        activation_bytes=solved.activation_bytes,
    )


def device_profile(
    request: MeasureRequest, threads: int, chain: Chain, fingerprint: str, solved: Sequence[file.MicrobatchProfile],
    around: Surroundings,
) -> file.DeviceProfile:  # fmt: skip
    """The profile; of a language model the choice of candidates is measured."""
    device, execution = request.device, request.device.execution.value
    return file.DeviceProfile(
        version=file.VERSIONS[any(item.extents for item in solved)],
        device=device.name,
        model=request.model.spec.name,
        fingerprint=fingerprint,
        execution=execution,
        dtype=device.dtype,
        threads=threads,
        busy_cores=request.busy_cores,
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=machine_info(execution),
        versions=file.Versions(
            edgecompile=edgecompile.__version__, torch=str(torch.__version__), python=platform.python_version()
        ),
        rates=around.rates,
        runtime_bytes=around.runtime_bytes,
        messages=around.messages,
        wires=around.wires,
        units=tuple(unit.op for unit in chain.units),
        microbatches=tuple(solved),
        prepack=request.prepack.value,
        precision=device.precision.value,
        keep=request.keep,
        cache=kept_in(chain).value,
        candidates=_candidates(request, chain),
    )


def _candidates(request: MeasureRequest, chain: Chain) -> file.Cost | None:
    scores = chain.boundaries[-1].tensors[0].shape
    return measure_candidates(scores[-1], request.candidates) if request.candidates else None
