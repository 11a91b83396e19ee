"""precision=auto: for each kind of device the fastest precision within the budget, chosen together with the cuts.

A kind in a precision is a kind of its own for the scheduler, with its own times and weights. Each choice of a precision
a kind is scheduled exactly; the fastest whose results keep the budget is taken. Where one breaks it, the modules that
cost most for the time they save stay in float32, as few as do: the squares of independent errors add up, so that each
module is measured once, and the rest is a sum; what is chosen is run on the items before it is believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod

import torch

from edgecompile.artifacts.compiled_stage import precision_of
from edgecompile.artifacts.fallbacks import Contingencies, find_contingencies
from edgecompile.artifacts.lowering import LowWeights
from edgecompile.config.cluster_spec import Device
from edgecompile.config.methods import ProfileMethod
from edgecompile.config.request import CompileRequest
from edgecompile.contract.closed_sets import Objective, Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.quantities import format_items_rate, format_time
from edgecompile.frontend.chain.products import lowered_by, lowered_units
from edgecompile.frontend.chain.step_checks import check_schedule
from edgecompile.frontend.chain.units import Chain
from edgecompile.partition.planning_costs import planning_inputs
from edgecompile.partition.stages import partition
from edgecompile.planning.planning_inputs import PlanningInputs
from edgecompile.planning.problem import Infeasible, Schedule
from edgecompile.precision.sensitivity import Sensitivities, Span, products_of, run_spans, within_budget
from edgecompile.precision.trial import Trial
from edgecompile.profile.analytic import Profile
from edgecompile.profile.mix import Mix, items_of
from edgecompile.profile.profile_fit import measured_precisions
from edgecompile.profile.workload import costs_of

__all__ = ["Planned", "choose_precision", "choices_of", "plan_with", "with_precisions"]

Choice = Mapping[str, Precision]
"""By kind of device."""
_MOST_CHOICES = 81
"""That are scheduled; of more, those alone in which all kinds have the same, as far as they can."""
_BITS: Mapping[Precision, int] = {
    Precision.FP32: 32, Precision.FP16: 16, Precision.BF16: 16, Precision.INT8_WEIGHTS: 12, Precision.INT8: 8,
    Precision.INT4_WEIGHTS: 4,
}  # fmt: skip
"""Of numbers, on average over weights and activations as far as they are rounded."""
_NEAR = 1.01
"""What is slower by no more than this factor and rounds less is taken instead."""
_ROOM = 0.8
"""Of the budget, for the sum of what modules cost: errors are not quite independent."""
_ATTEMPTS = 6
_MOST_NAMED = 4
"""Choices that the plan's notes name, beside float32 everywhere."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A choice with all that follows from it."""

    request: CompileRequest
    """With the precision of each kind, and the modules that stay in float32."""
    profile: Profile
    mix: Mix | None
    inputs: PlanningInputs
    schedule: Schedule
    contingencies: Contingencies
    lowered: Mapping[Precision, frozenset[int]]
    """The units that each precision changes."""
    notes: tuple[str, ...] = ()

    @property
    def figure_s(self) -> float:
        """What the objective makes least."""
        by_latency = self.request.schedule.objective is Objective.LATENCY
        return self.schedule.through_s(self.inputs.scheduling.messages) if by_latency else self.schedule.period_s

    @property
    def pipelines(self) -> tuple[tuple[Span, ...], ...]:
        """The plan's stages, and those after the loss of each host."""
        cluster = self.request.cluster
        schedules = (self.schedule, *(item.schedule for item in self.contingencies.fallbacks))
        return tuple(
            tuple(
                Span(first=stage.first, last=stage.last, precision=precision_of(stage, cluster, self.lowered))
                for stage in schedule.stages
            )
            for schedule in schedules
        )  # fmt: skip

    @property
    def used(self) -> dict[str, Precision]:
        """The precision of the kinds that run stages."""
        cluster = self.request.cluster
        found: dict[str, Precision] = {}
        for stage in self.schedule.stages:
            name, own = cluster.device_of(cluster.hosts[stage.host]).name, precision_of(stage, cluster, self.lowered)
            found[name] = own if found.get(name, Precision.FP32) is Precision.FP32 else found[name]
        return found


def plan_with(request: CompileRequest, chain: Chain, profile: Profile, mix: Mix | None) -> Planned:
    """The schedule for these costs, and those after the loss of each host, where they were asked for.

    Raises:
        UserError: no assignment fits, or a constraint names something unknown.
    """
    inputs = planning_inputs(request, chain, profile, mix)
    by_latency = request.schedule.objective is Objective.LATENCY
    schedule = partition(inputs, chain, request.schedule)
    check_schedule(schedule, chain, by_latency=by_latency, messages=inputs.scheduling.messages)
    contingencies = find_contingencies(inputs, schedule) if request.contingency else Contingencies()
    return Planned(request=request, profile=profile, mix=mix, inputs=inputs, schedule=schedule,
                   contingencies=contingencies,
                   lowered=lowered_by(chain, request.precision.keep, request.cluster.precisions))  # fmt: skip


def with_precisions(request: CompileRequest, choice: Choice, keep: Sequence[str] = ()) -> CompileRequest:
    """The request with these precisions, and with these modules kept in float32 beside its own."""
    devices = tuple(
        replace(device, precision=choice.get(device.name, device.precision), auto=False)
        for device in request.cluster.devices
    )
    kept = (*request.precision.keep, *keep)
    return replace(
        request, cluster=replace(request.cluster, devices=devices), precision=replace(request.precision, keep=kept)
    )


def choices_of(request: CompileRequest) -> list[Choice]:
    """The choices of a precision for each kind of device: those with figures of its own; all in float32 is the first.

    Raises:
        UserError: a profile that was given cannot be read.
    """
    kinds = {device.name: _precisions(device, request) for device in request.cluster.devices if device.auto}
    if prod(map(len, kinds.values())) <= _MOST_CHOICES:
        return [dict(zip(kinds, choice, strict=True)) for choice in product(*kinds.values())]
    found: list[Choice] = []
    for precision in Precision:
        choice = {name: precision if precision in own else Precision.FP32 for name, own in kinds.items()}
        found += [choice] if choice not in found else []
    return found


def _precisions(device: Device, request: CompileRequest) -> tuple[Precision, ...]:
    if request.profile.method is ProfileMethod.measured:
        return measured_precisions(device, request.profile)
    if found := request.profile.precisions_of(device.name):
        return found
    return (Precision.FP32, *(precision for precision in Precision if device.gains_in(precision)))


class _Search:
    def __init__(
        self, request: CompileRequest, chain: Chain, examples: Sequence[torch.Tensor], mix: Mix | None, trial: Trial
    ) -> None:
        self._request, self._chain, self._examples, self._mix, self._trial = request, chain, examples, mix, trial
        self._profiles: dict[tuple[tuple[str, Precision], ...], Profile] = {}
        self._judged: dict[tuple[object, ...], bool] = {}
        self._usual: Choice = {device.name: Precision.FP32 for device in request.cluster.devices}

    def planned(self, choice: Choice, keep: tuple[str, ...] = ()) -> Planned:
        """Raises Infeasible."""
        profile = self._profile(choice)
        request = with_precisions(self._request, choice, keep)
        if keep:
            usual, of = self._in_fp32, {device.name: device.precision for device in request.cluster.devices}
            kept = {name: self._kept_units(keep, precision) for name, precision in of.items()}
            profile = replace(profile, unit_s={
                name: tuple((usual if unit in kept[name] else profile).unit_s[name][unit] for unit in range(len(times)))
                for name, times in profile.unit_s.items()
            })  # fmt: skip
        return plan_with(request, self._chain, profile, self._mix)

    @cached_property
    def _in_fp32(self) -> Profile:
        """The costs of all kinds; a kind whose precision is given may have no profile in float32, and keeps its own."""
        try:
            return self._profile(self._usual)
        except UserError:
            given = {device.name: device.precision for device in self._request.cluster.devices if not device.auto}
            return self._profile({**self._usual, **given})

    def _profile(self, choice: Choice) -> Profile:
        key = tuple(sorted(choice.items()))
        if key not in self._profiles:
            self._profiles[key] = costs_of(
                with_precisions(self._request, choice), self._chain, self._examples, self._mix
            )
        return self._profiles[key]

    def _kept_units(self, keep: tuple[str, ...], precision: Precision) -> frozenset[int]:
        own = self._request.precision.keep
        return lowered_units(self._chain, own, precision) - lowered_units(self._chain, (*own, *keep), precision)

    def keeps_budget(self, planned: Planned) -> bool:
        """Whether all of its pipelines do, run on the items."""
        return all(self._pipeline_keeps_budget(spans, planned.request) for spans in planned.pipelines)

    def _pipeline_keeps_budget(self, spans: tuple[Span, ...], request: CompileRequest) -> bool:
        keep = request.precision.keep
        key = (tuple(sorted(products_of(self._chain, spans, keep).items())), keep)
        if key not in self._judged:
            run = run_spans(self._chain, spans, LowWeights(), keep)
            score = self._trial.score(self._trial.run(run))
            self._judged[key] = within_budget(score, self._trial, request.precision)
        return self._judged[key]

    def repaired(self, planned: Planned, choice: Choice, costs: Sensitivities) -> Planned | None:
        """With as many modules in float32 as the budget needs; None where that was not found."""
        room = _ROOM * self._request.precision.budget
        keep: tuple[str, ...] = ()
        for _ in range(_ATTEMPTS):
            try:
                found = self.planned(choice, keep)
            except Infeasible:  # in float32 they take more memory
                return None
            more = self._dear_modules(found, costs, room)
            keep = (*keep, *more)
            if more:
                continue
            if self.keeps_budget(found):
                return found
            room /= 2
        return None

    def _dear_modules(self, planned: Planned, costs: Sensitivities, room: float) -> tuple[str, ...]:
        """The modules to keep, so that the others' errors sum up to no more than there is room for."""
        own: dict[str, float] = {}
        for spans in planned.pipelines:
            for name, precision in products_of(self._chain, spans, planned.request.precision.keep).items():
                own[name] = max(own.get(name, 0.0), costs.of(precision).get(name, 0.0))
        saved_s = self._saved_s(planned)
        order = sorted(own, key=lambda name: -own[name] / max(saved_s.get(name, 0.0), 1e-12))
        left, dear = sum(own.values()), []
        for name in order:
            if left <= room:
                break
            dear.append(name)
            left -= own[name]
        return tuple(dear)

    def _saved_s(self, planned: Planned) -> dict[str, float]:
        """What each module's units take less than in float32, on the host that the plan gives them."""
        cluster, found = planned.request.cluster, dict[str, float]()
        usual = self._in_fp32
        for stage in planned.schedule.stages:
            device = cluster.device_of(cluster.hosts[stage.host]).name
            for unit in self._chain.units[stage.first : stage.last + 1]:
                saved = usual.unit_s[device][unit.index] - planned.profile.unit_s[device][unit.index]
                found[unit.module] = found.get(unit.module, 0.0) + saved
        return found


def choose_precision(
    request: CompileRequest,
    chain: Chain,
    examples: Sequence[torch.Tensor],
    mix: Mix | None,
    trial: Trial,
    costs: Callable[[], Sensitivities],
    step: Callable[[str], AbstractContextManager[object]],
) -> Planned:
    """
    Args:
        trial: the items that the budget is of.
        costs: what modules cost each alone; asked for where the budget is in the way.

    Raises:
        UserError: no choice has a plan, or figures; says why of float32.
    """
    search, choices = _Search(request, chain, examples, mix, trial), choices_of(request)
    with step(f"schedule {len(choices)} choices of precision"):
        plans, reason = _plans(search, choices)
    if not plans:
        assert reason is not None
        raise reason
    ordered = sorted(plans, key=lambda item: (item[1].figure_s, -_bits(item[1])))
    best: Planned | None = None
    broken: list[Planned] = []
    for choice, planned in ordered:
        if best is not None and planned.figure_s > best.figure_s:
            break
        if search.keeps_budget(planned):
            best = planned
            break
        broken.append(planned)
        repaired = search.repaired(planned, choice, costs())
        if repaired is not None and (best is None or repaired.figure_s < best.figure_s):
            best = repaired
    if best is None:  # not even float32, as with a lossy kernel: the check of the shards says by how much
        best = plans[0][1]
    for _, planned in sorted(plans, key=lambda item: -_bits(item[1])):
        near = planned.figure_s <= _NEAR * best.figure_s
        if _bits(planned) > _bits(best) and near and search.keeps_budget(planned):
            best = planned
            break
    return replace(best, notes=_notes(best, [planned for _, planned in plans], broken, request, mix))


def _plans(search: _Search, choices: Sequence[Choice]) -> tuple[list[tuple[Choice, Planned]], Infeasible | None]:
    plans: list[tuple[Choice, Planned]] = []
    reason: Infeasible | None = None
    for choice in choices:
        try:
            plans.append((choice, search.planned(choice)))
        except Infeasible as error:
            reason = reason or error
    return plans, reason


def _bits(planned: Planned) -> int:
    return sum(_BITS[precision] for precision in planned.used.values()) // max(1, len(planned.used))


def _notes(
    best: Planned, plans: Sequence[Planned], broken: Sequence[Planned], request: CompileRequest, mix: Mix | None
) -> tuple[str, ...]:
    autos = [device.name for device in request.cluster.devices if device.auto]
    items = items_of(mix, request.microbatch)

    def told(planned: Planned) -> str:
        if request.schedule.objective is Objective.LATENCY:
            return format_time(planned.figure_s)
        return format_items_rate(items / planned.schedule.period_s)

    def words(planned: Planned) -> str:
        found = {name: own.value for name, own in planned.used.items() if name in autos or own is not Precision.FP32}
        counts = Counter(found.values())
        if not counts:
            return Precision.FP32.value
        most = counts.most_common(1)[0][0]
        others = ", ".join(f"{value} on {name}" for name, value in found.items() if value != most)
        return f"{most} ({others})" if others else most

    others: dict[str, str] = {}
    for planned in sorted(plans, key=lambda item: item.figure_s):
        others.setdefault(words(planned), told(planned))  # kinds that are not used do not tell choices apart
    plain = others.pop(Precision.FP32.value, None)
    listed = [f"{name}: {rate}" for name, rate in others.items()][:_MOST_NAMED]
    listed += [f"{Precision.FP32.value}: {plain}"] if plain is not None else []
    notes = [f"precision=auto took {words(best)}: {told(best)}; choices before the budget: {'; '.join(listed)}"]
    kept = best.request.precision.keep[len(request.precision.keep) :]
    if kept:
        notes.append(f"precision=auto keeps these in fp32 for the budget: {', '.join(kept)}")
    if broken:
        over = dict.fromkeys(words(planned) for planned in broken)
        notes.append(f"precision=auto: beyond the budget as they are: {'; '.join(over)}")
    alone = [device for device in request.cluster.devices if device.auto and len(_precisions(device, request)) == 1]
    for device in alone:
        measured = request.profile.method is ProfileMethod.measured or request.profile.precisions_of(device.name)
        notes.append(f"precision=auto: {device.name} stays in fp32: " + (
            "it has no profile in another precision (edgeprofile precision=auto measures them)" if measured else
            f"its data sheet names no other (devices.{device.name}.precisions); edgeprofile measures them"
        ))  # fmt: skip
    return tuple(notes)
