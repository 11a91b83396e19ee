"""Predicts what a schedule's stages do with one stream, with all slots, and with a long prompt."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from math import ceil

from edgecompile.config.generation_request import GenerationRequest
from edgecompile.contract.generation import TextPrediction
from edgecompile.contract.plan import Dim
from edgecompile.planning.planning_inputs import PlanningInputs, formats_at, state_problem
from edgecompile.planning.problem import Assignment, Infeasible, Schedule
from edgecompile.planning.solver import evaluate
from edgecompile.profile.mix import Mix
from edgecompile.profile.text_mix import decoding_rows, mix_of_kinds

__all__ = ["predict_text"]


def predict_text(
    asked: GenerationRequest, dims: Mapping[str, Dim], schedule: Schedule, costs: Callable[[Mix], PlanningInputs]
) -> TextPrediction:
    """
    Args:
        costs: the inputs of planning where all messages are of this mix.
    """
    assignments = tuple(Assignment(first=item.first, last=item.last, host=item.host) for item in schedule.stages)

    @functools.cache
    def inputs_of(kind: tuple[int, int]) -> PlanningInputs:
        return costs(mix_of_kinds("one kind", dims, [kind]))

    def placed(kind: tuple[int, int], where: tuple[Assignment, ...] = assignments) -> Schedule:
        inputs = inputs_of(kind)
        return evaluate(state_problem(inputs, formats_at(inputs, [item.first for item in where])), where)

    stages = len(assignments)
    one, chunk = placed((1, 1)), placed((1, min(asked.chunk, asked.prompt)))
    groups = min(stages, asked.slots)
    rows = decoding_rows(asked.slots, stages)
    many = placed((rows, 1)) if rows > 1 else one
    round_s = max(groups * many.period_s, many.latency_s)
    chunks = ceil(asked.prompt / asked.chunk)
    last = assignments[-1].last
    alone = {}
    names = inputs_of((1, 1)).host_names
    for host, name in enumerate(names):
        try:
            alone[name] = placed((1, 1), (Assignment(first=0, last=last, host=host),)).latency_s
        except Infeasible:
            continue  # it does not hold the model
    return TextPrediction(
        token_s=one.latency_s, first_token_s=chunk.latency_s + (chunks - 1) * chunk.period_s,
        tokens_per_s=asked.slots / round_s, prompt_tokens_per_s=min(asked.chunk, asked.prompt) / chunk.period_s,
        alone_token_s=alone,
    )  # fmt: skip
