"""The generation option as a frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecompile.config.cluster_spec import Cluster
from edgecompile.config.methods import TextObjective
from edgecompile.config.resources import resource_path
from edgecompile.config.schema import Conf
from edgecompile.config.value_checks import between
from edgecompile.contract.closed_sets import AUTO, Cache, Precision, words_of
from edgecompile.contract.errors import UserError, choices, invalid_value
from edgecompile.contract.text_rules import MOST_CONTEXT, MOST_SLOTS

__all__ = ["GenerationRequest", "cache_of", "generation_of", "text_objective"]

MOST_CHUNK, MOST_CANDIDATES = 4096, 1024


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """As GenerationConf."""

    slots: int
    context: int
    chunk: int
    prompt: int
    tokens: int
    candidates: int
    tokenizer: Path | None
    cache: Cache | None = None
    """None: as the precisions of the devices suggest."""
    objective: TextObjective = TextObjective.THROUGHPUT

    @property
    def usual_context(self) -> int:
        """Tokens that a step sees before its own, on average."""
        return self.prompt + self.tokens // 2


def text_objective(word: str) -> TextObjective | None:
    """None where it is none of text generation."""
    return TextObjective(word) if word in {item.value for item in TextObjective} else None


def cache_of(asked: GenerationRequest, cluster: Cluster) -> Cache:
    """What keys and values are kept in: bf16 where everything was asked to be rounded anyway, unless one is named."""
    if asked.cache is not None:
        return asked.cache
    low = all(device.precision is not Precision.FP32 and not device.auto for device in cluster.devices)
    return Cache.BF16 if low else Cache.FP32


def generation_of(conf: Conf) -> GenerationRequest | None:
    """None where the model generates no text. Raises UserError where a value is not allowed."""
    given = conf.generation
    slots = between(given.slots, 1, MOST_SLOTS, "generation.slots")
    context = between(given.context, 2, MOST_CONTEXT, "generation.context")
    chunk = between(given.chunk, 8, MOST_CHUNK, "generation.chunk")
    prompt = between(given.prompt, 1, MOST_CONTEXT, "generation.prompt")
    tokens = between(given.tokens, 1, MOST_CONTEXT, "generation.tokens")
    candidates = between(given.candidates, 1, MOST_CANDIDATES, "generation.candidates")
    if given.cache not in (AUTO, *words_of(Cache)):
        raise invalid_value(given.cache, "generation.cache", f"{choices(words_of(Cache))} or {AUTO}")
    if not conf.model.generates:
        if text_objective(conf.schedule.objective) is not None:
            raise UserError(
                f"schedule.objective={conf.schedule.objective} is for models that generate text: use period or latency"
            )
        return None
    if prompt + tokens > context:
        raise UserError(
            f"generation.prompt {prompt} and generation.tokens {tokens} are more than generation.context {context}: "
            "raise the context, or plan for shorter texts"
        )
    tokenizer = None if given.tokenizer is None else resource_path(given.tokenizer, "generation.tokenizer")
    return GenerationRequest(
        slots=slots, context=context, chunk=chunk, prompt=prompt, tokens=tokens, candidates=candidates,
        tokenizer=tokenizer, cache=None if given.cache == AUTO else Cache(given.cache),
        objective=text_objective(conf.schedule.objective) or TextObjective.THROUGHPUT,
    )  # fmt: skip
