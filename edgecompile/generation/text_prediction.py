"""Predicts what a schedule's stages do with one stream, with all slots, and with a long prompt.

All terms are of the schedule's own costs (planning_inputs): units at the rows, tokens and context of a message,
encoding and what a core spends on messages, a link's time and latency, the candidates that the last stage finds, and
what the data host does for an item. Nothing here is fitted to runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from math import ceil

from edgecompile.config.generation_request import GenerationRequest
from edgecompile.contract.generation import TextPrediction
from edgecompile.contract.plan import Dim
from edgecompile.planning.planning_inputs import PlanningInputs, formats_at, state_problem
from edgecompile.planning.problem import Assignment, Infeasible, Schedule
from edgecompile.planning.solver import evaluate
from edgecompile.profile.mix import Mix
from edgecompile.profile.text_mix import chunk_starts, decoding_rows, mix_of_kinds

__all__ = ["flow_s", "predict_text"]


def predict_text(
    asked: GenerationRequest, dims: Mapping[str, Dim], schedule: Schedule, costs: Callable[[Mix], PlanningInputs]
) -> TextPrediction:
    """
    One token of one stream takes a message's whole way, with the context of the middle of an answer. A first token
    takes that of all chunks of its prompt, with what its slot holds before them on average: see flow_s. Where all slots
    generate, there are as many messages as groups of rows, and a group's next message begins once its last one is back:
    a round takes as long as one message's way, or as all of them take at the bottleneck. A long prompt's chunks follow
    each other at the bottleneck's pace, with the context that whole chunks of a usual prompt have.

    Args:
        costs: the inputs of planning where all messages are of this mix.
    """
    assignments = tuple(Assignment(first=item.first, last=item.last, host=item.host) for item in schedule.stages)

    @functools.cache
    def inputs_of(kind: tuple[int, int], contexts: tuple[int, ...]) -> PlanningInputs:
        return costs(mix_of_kinds("one kind", dims, [kind], {kind: contexts}))

    def placed(
        kind: tuple[int, int], contexts: tuple[int, ...], where: tuple[Assignment, ...] = assignments
    ) -> Schedule:
        inputs = inputs_of(kind, contexts)
        return evaluate(state_problem(inputs, formats_at(inputs, [item.first for item in where])), where)

    stages, usual = len(assignments), (asked.usual_context,)
    one = placed((1, 1), usual)
    chunks = {kind: placed(kind, starts) for kind, starts in chunk_starts(asked.prompt, asked.chunk).items()}
    prompt = [chunks[1, min(asked.chunk, asked.prompt - start)] for start in range(0, asked.prompt, asked.chunk)]
    rows = decoding_rows(asked.slots, stages)
    many = placed((rows, 1), usual)
    groups = ceil(asked.slots / rows)
    alone = {}
    last = assignments[-1].last
    for host, name in enumerate(inputs_of((1, 1), usual).host_names):
        try:
            alone[name] = placed((1, 1), usual, (Assignment(first=0, last=last, host=host),)).latency_s
        except Infeasible:
            continue  # it does not hold the model
    return TextPrediction(
        token_s=one.latency_s, first_token_s=flow_s(prompt),
        tokens_per_s=asked.slots / max(groups * many.period_s, many.latency_s),
        prompt_tokens_per_s=min(asked.chunk, asked.prompt) / prompt[0].period_s, alone_token_s=alone,
    )  # fmt: skip


def flow_s(messages: Sequence[Schedule]) -> float:
    """Seconds until the last of these messages, which follow each other through the same stages, is at the end.

    A stage takes a message when it has done the one before and the transfer is over; a link sends one after the other.
    What a way takes beside both (the latency of its links) each message has for itself.
    """
    free = [0.0] * (2 * len(messages[0].stages) + 1)
    for message in messages:
        steps = [seconds for stage in message.stages for seconds in (stage.receive_s, stage.compute_s)]
        steps.append(message.stages[-1].send_s)
        now = 0.0
        for place, seconds in enumerate(steps):
            now = max(now, free[place]) + seconds
            free[place] = now
        on_the_way_s = max(0.0, message.latency_s - sum(steps))
    return now + on_the_way_s
