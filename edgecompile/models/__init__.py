"""Builds the model to compile and loads its weights. A model option's `_target_` names the builders here."""

from __future__ import annotations

from edgecompile.models.builders import build_model, from_directory, from_transformers, sentence_encoder

__all__ = ["build_model", "from_directory", "from_transformers", "sentence_encoder"]
