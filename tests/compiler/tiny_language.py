"""Language models of random weights, a few thousand numbers each, as steps and as transformers has them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from edgecompile.models.causal_step import CausalStep, causal_lm_of

__all__ = ["CONTEXT", "VOCABULARY", "WINDOW", "Tiny", "longrope", "tiny"]

VOCABULARY, CONTEXT, WINDOW, LAYERS = 100, 32, 5, 3
_SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


class Tiny(NamedTuple):
    step: CausalStep
    reference: Any
    """The same weights, with transformers' own attention."""


def tiny(architecture: str, config: str, context: int = CONTEXT, **values: Any) -> Tiny:
    """Of a class of transformers and its config's class; `values` differ from the tiny sizes."""
    import transformers

    cls = getattr(transformers, architecture)
    made = getattr(transformers, config)(**{**_SIZES, **values})
    torch.manual_seed(0)
    step = causal_lm_of(cls, made, context)
    reference = cls._from_config(made, dtype=torch.float32, attn_implementation="eager").eval()
    reference.load_state_dict(step.model.state_dict())
    return Tiny(step, reference)


def longrope(most: int) -> dict[str, Any]:
    """A Phi-3 whose rotary embedding is another one for texts of more than so many tokens."""
    factors = {"short_factor": [1.0, 1.2, 1.4, 1.6], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rotary = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": most, **factors}
    return {"rope_parameters": rotary, "original_max_position_embeddings": most, "initializer_range": 0.3}
