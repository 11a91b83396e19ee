"""The part of a plan that is of text generation: state that units keep, the tokenizer, golden texts, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgecompile.contract.closed_sets import Cache
from edgecompile.contract.yaml_decode import OMITTED

__all__ = [
    "GeneratedText",
    "Generation",
    "Perplexity",
    "StateSpec",
    "TextPrediction",
    "candidate_bytes",
    "state_within",
]

STATE_BYTES: Mapping[str, int] = {Cache.FP32.value: 4, Cache.BF16.value: 2}
"""Of a number of it."""


def candidate_bytes(count: int) -> int:
    """Of a row's result: the most likely tokens with their scores, the sum of all, and the slot."""
    return count * (4 + 4) + 4 + 8


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """The keys and values that one unit keeps of each token of a slot."""

    unit: int
    layer: int
    """The number of its call of attention within the model."""
    groups: int
    """Each has keys and values of its own."""
    key_size: int
    value_size: int
    window: int = field(default=0, metadata={OMITTED: True})
    """How many tokens back a token sees, itself included; 0: all."""
    dtype: str = field(default=Cache.FP32.value, metadata={OMITTED: True})
    """As closed_sets.Cache has them."""

    @property
    def token_bytes(self) -> int:
        return STATE_BYTES[self.dtype] * self.groups * (self.key_size + self.value_size)


def state_within(state: Sequence[StateSpec], units: tuple[int, int]) -> tuple[StateSpec, ...]:
    """What units keep, of those from the first to the last of a stage."""
    return tuple(spec for spec in state if units[0] <= spec.unit <= units[1])


@dataclass(frozen=True, kw_only=True)
class TextPrediction:
    """What is predicted of generating text."""

    token_s: float
    """Between two tokens of one stream that has the pipeline for itself."""
    first_token_s: float
    """From a prompt of the workload's length to its first token, alone."""
    tokens_per_s: float
    """Of all slots together, while all of them generate."""
    prompt_tokens_per_s: float
    """Of a long prompt, whose chunks follow each other through the stages."""
    alone_token_s: dict[str, float] = field(default_factory=dict, metadata={OMITTED: True})
    """By host: `token_s` if that host ran the whole model; those that hold it."""


@dataclass(frozen=True, kw_only=True)
class GeneratedText:
    """A prompt, and the tokens that transformers' generate() makes of it, greedily and in float32."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """How well the next token of a text is foretold: 1 is for certain, the vocabulary's size is by chance."""

    text: str
    """Which text, in words."""
    tokens: int
    """Of it, that were foretold, each from those before it in its piece of the text."""
    model: float
    """Of the model in float32."""
    plan: float | None = field(default=None, metadata={OMITTED: True})
    """As the stages compute it; None: they round nothing."""
    mean_divergence: float = field(default=0.0, metadata={OMITTED: True})
    """Kullback-Leibler of the next token's distribution, in nats, from the model in float32."""
    worst_divergence: float = field(default=0.0, metadata={OMITTED: True})
    same: float = field(default=1.0, metadata={OMITTED: True})
    """The share of tokens at which the most likely one stays so."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    slots: int
    """Sequences that are held at once."""
    context: int
    """Tokens of a slot."""
    chunk: int
    """Tokens of a prompt that a message has at most."""
    candidates: int
    """The most likely next tokens, of which the data host chooses."""
    vocabulary: int
    state: tuple[StateSpec, ...]
    predicted: TextPrediction
    prompt: int
    """Tokens of a usual prompt."""
    tokens: int
    """That usually follow it."""
    tokenizer: str | None = None
    """tokenizer.json beside the plan; None: prompts are lists of token ids."""
    sha256: str | None = None
    stop_ids: tuple[int, ...] = ()
    """Tokens that end an answer."""
    template: str | None = None
    """Of a conversation, in Jinja, as transformers has them; None: the model has none."""
    words: dict[str, str] = field(default_factory=dict, metadata={OMITTED: True})
    """The special tokens that the template names, such as bos_token."""
    golden: tuple[GeneratedText, ...] = ()
    perplexity: Perplexity | None = field(default=None, metadata={OMITTED: True})
    """None: it was not measured."""

    @property
    def in_bf16(self) -> bool:
        """Whether keys and values are kept so."""
        return any(spec.dtype == Cache.BF16.value for spec in self.state)

    @property
    def slot_bytes(self) -> int:
        """Of one slot's state, all stages together."""
        return self.context * sum(spec.token_bytes for spec in self.state)
