"""Builds the model to compile and loads its weights. A model option's `_target_` names the builders here."""

from __future__ import annotations

from edgecompile.models.builders import build_model, from_directory, from_transformers, sentence_encoder
from edgecompile.models.language import causal_lm

__all__ = ["build_model", "causal_lm", "from_directory", "from_transformers", "sentence_encoder"]
