"""Runs a stage of a language model on a message, with the keys and values that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from edgecompile.contract.plan import Plan, Stage
from edgecompile.execution.attention import bound
from edgecompile.execution.row_kernels import candidates
from edgecompile.execution.slot_state import SlotState, layer_without_state
from edgelaunch.pipeline.stage_shard import run_shard

__all__ = ["Run", "TextStage"]

Run = Callable[[Sequence[torch.Tensor], Mapping[str, int]], Sequence[torch.Tensor]]
"""A message's tensors and its sizes, by the name of each dimension that varies, to the tensors that go on."""


class _NoState:
    """Of a stage that keeps none: attention without the tokens before would give other answers in silence."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, *_: Any) -> torch.Tensor:
        raise KeyError(layer_without_state(layer))


_NONE = _NoState()


class TextStage:
    """A Run. The last stage gives the most likely tokens of each row in place of the scores of all."""

    def __init__(
        self, plan: Plan, stage: Stage, module: Callable[..., Any], device: str, state: SlotState | None
    ) -> None:
        """`state`: of the stage; None where it keeps none."""
        assert plan.generation is not None
        self._stage, self._module, self._device, self._state = stage, module, device, state
        names = [spec.name for spec in stage.inputs]
        self._slots, self._positions = (names.index(name) if name in names else -1 for name in ("slots", "positions"))
        self._last = stage.stage == len(plan.stages) - 1
        self._candidates = plan.generation.candidates

    def __call__(self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> Sequence[torch.Tensor]:
        step = _NONE if self._state is None else self._state.step(tensors[self._slots], tensors[self._positions])
        with bound(step):
            outputs = run_shard(self._module, self._stage, tensors, self._device, sizes)
        if not self._last:
            return outputs
        logits, slots = outputs
        return *candidates(logits, self._candidates), slots
