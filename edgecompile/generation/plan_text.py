"""Makes what a plan says of generating text, once its shards are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from edgecompile.artifacts.compiled_stage import CompiledStage, StageWriter
from edgecompile.config.request import CompileRequest
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import GeneratedText, Generation, Perplexity, StateSpec, TextPrediction
from edgecompile.contract.text_rules import TOKENS
from edgecompile.execution.low_precision import fast_here
from edgecompile.execution.prepack import pays_here
from edgecompile.frontend.chain.kept_state import keeps_bf16, state_of
from edgecompile.frontend.chain.sized_work import sized_work
from edgecompile.frontend.chain.units import Chain
from edgecompile.generation.golden_texts import RunStage, check_steps, compare_texts, golden_texts
from edgecompile.generation.perplexity import measured_perplexity, windows_of
from edgecompile.generation.text_prediction import predict_text
from edgecompile.generation.tokenizer_files import TokenizerFiles, stop_ids_of, tokenizer_files
from edgecompile.models.causal_step import CausalStep
from edgecompile.partition.planning_costs import planning_inputs
from edgecompile.precision.auto_precision import Planned
from edgecompile.profile.workload import costs_of

Step = Callable[[str], AbstractContextManager[object]]

__all__ = ["PlannedText", "plan_text"]

_GAIN = 1.02
"""What a pipeline must be faster by for one stream, to be called so."""


@dataclass(frozen=True, kw_only=True)
class PlannedText:
    generation: Generation | None = None
    notes: tuple[str, ...] = ()


def plan_text(
    planned: Planned, module: torch.nn.Module, chain: Chain, examples: Sequence[torch.Tensor],
    writer: StageWriter | None, stages: Sequence[CompiledStage], step: Step,
) -> PlannedText:  # fmt: skip
    """Nothing, of a model that generates no text.

    Args:
        module: the model itself.
        writer: of the shards; None: there are none, and no text is generated.

    Raises:
        UserError: the shards generate another text than the model, or the tokenizer cannot be read.
    """
    request = planned.request
    asked = request.generation
    if asked is None:
        return PlannedText()
    if not isinstance(module, CausalStep):
        raise UserError(
            "model.generates: the model does not generate text step by step: build it with edgecompile.models.causal_lm"
        )
    if set(chain.captured.dims) != {"batch", "tokens"}:
        raise UserError(
            "the model cannot generate text: it was captured for one number of tokens alone"
            f"{': ' + chain.captured.why_fixed if chain.captured.why_fixed else ''}"
        )
    state, vocabulary = state_of(chain), int(chain.boundaries[-1].tensors[0].shape[-1])
    if asked.candidates > vocabulary:
        raise UserError(f"generation.candidates {asked.candidates} is more than the model's {vocabulary} tokens")
    files = tokenizer_files(asked, request.weights.file, request.folder)
    tried = _tried(module, chain, files, request, writer, stages, step) if writer is not None else _Tried()
    work = sized_work(chain, examples, TOKENS)
    predicted = predict_text(
        asked, chain.captured.dims, planned.schedule,
        lambda mix: planning_inputs(request, chain, costs_of(request, chain, examples, mix, work), mix),
    )  # fmt: skip
    notes = [*_notes(predicted, request, len(stages)), *tried.notes]
    return PlannedText(
        generation=Generation(
            slots=asked.slots, context=asked.context, chunk=asked.chunk, candidates=asked.candidates,
            vocabulary=vocabulary, state=state, predicted=predicted, prompt=asked.prompt, tokens=asked.tokens,
            tokenizer=files.path, sha256=files.sha256, template=files.template, words=files.words, golden=tried.golden,
            perplexity=tried.perplexity,
            stop_ids=tuple(sorted(
                number for number in {*files.stop_ids, *stop_ids_of(module.model)} if number < vocabulary
            )),
        ),
        notes=tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """What the shards generate beside what the model does."""

    golden: tuple[GeneratedText, ...] = ()
    perplexity: Perplexity | None = None
    notes: tuple[str, ...] = ()


def _tried(
    module: CausalStep, chain: Chain, files: TokenizerFiles, request: CompileRequest, writer: StageWriter,
    stages: Sequence[CompiledStage], step: Step,
) -> _Tried:  # fmt: skip
    asked = request.generation
    assert asked is not None
    state, vocabulary = state_of(chain), int(chain.boundaries[-1].tensors[0].shape[-1])
    with step("generate golden texts with the eager model"):
        texts = golden_texts(module, vocabulary, asked.chunk, request.model.seed)
        rounded = any(stage.precision is not Precision.FP32 for stage in stages)
        lossy = keeps_bf16(chain) or any(stage.incoming.name != "fp32" for stage in stages)
        # the last one fills the context: where nothing is rounded, the shards' own scores of it tell
        check_steps(module, texts if rounded or lossy else texts[:-1], state, asked.chunk)
    with step("generate the same with the shards"):
        runs = [_run_stage(writer, stage, chain, request.runtime.prepack) for stage in stages]
        found = compare_texts(module, texts, runs, state, asked.chunk, request.microbatch, rounded=rounded or lossy)
    perplexity, why = _perplexity(module, files, request, vocabulary, runs, state, rounded=rounded or lossy, step=step)
    if rounded or lossy:
        why = (
            *why,
            f"of {found.num_tokens} golden tokens {found.num_equal} stay the most likely; the distribution of the next "
            f"token diverges by {found.mean_divergence:.3g} nats on average, {found.worst_divergence:.3g} at worst",
        )
    return _Tried(golden=texts, perplexity=perplexity, notes=why)


def _perplexity(
    module: CausalStep, files: TokenizerFiles, request: CompileRequest, vocabulary: int, runs: Sequence[RunStage],
    state: Sequence[StateSpec], *, rounded: bool, step: Step,
) -> tuple[Perplexity | None, tuple[str, ...]]:  # fmt: skip
    """The figures, or a note on why there are none."""
    if files.path is None:
        return None, ("perplexity is not measured: there is no tokenizer for a text (generation.tokenizer names one)",)
    assert request.generation is not None
    windows = windows_of(request.folder / files.path, module.context, request.microbatch)
    if not windows:
        return None, ("perplexity is not measured: the context has no room for a text",)
    if max(max(*text.prompt, *text.tokens) for text in windows) >= vocabulary:
        return None, ("perplexity is not measured: the tokenizer has tokens that the model does not know",)
    with step("measure the perplexity"):
        found = measured_perplexity(
            module, windows, runs, state, request.generation.chunk, request.microbatch, rounded=rounded
        )
    return found, () if found is not None else ("perplexity is not measured: it is too large for a number",)


def _run_stage(writer: StageWriter, stage: CompiledStage, chain: Chain, prepack: str) -> RunStage:
    """As a rank on this machine runs it; in float32 as it is written, which every machine does."""
    own = stage.precision
    packed = own is not Precision.FP32 and pays_here(prepack, own) and fast_here(own)
    names = [tensor.name for tensor in chain.boundaries[stage.placed.first].tensors]
    slots, positions = (names.index(name) if name in names else -1 for name in ("slots", "positions"))
    return RunStage(run=writer.opened(stage.shard, packed=packed), units=(stage.placed.first, stage.placed.last),
                    places=(slots, positions))  # fmt: skip


def _notes(predicted: TextPrediction, request: CompileRequest, num_stages: int) -> list[str]:
    alone = predicted.alone_token_s
    if num_stages < 2 or not alone:
        return []
    best = min(alone, key=lambda name: alone[name])
    if alone[best] <= predicted.token_s * _GAIN:
        return [
            f"for one stream the pipeline gains nothing: {best} alone should take {alone[best] * 1e3:.3g} ms a "
            f"token, the pipeline {predicted.token_s * 1e3:.3g} ms; it gains with several streams at once, or memory"
        ]
    return []
