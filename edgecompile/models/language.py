"""Builders of language models that generate text: from a config, a save_pretrained directory or a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecompile.config.resources import resource_path
from edgecompile.contract.errors import UserError
from edgecompile.models.causal_step import CausalStep, causal_lm_of
from edgecompile.models.gguf_files import gguf_config, is_gguf

__all__ = ["causal_lm"]


def causal_lm(
    path: str | None = None, architecture: str | None = None, config: Mapping[str, Any] | None = None,
    context: int = 1024,
) -> nn.Module:  # fmt: skip
    """A causal language model of transformers, as a step of text generation: see CausalStep.

    Args:
        path: a save_pretrained directory, or a GGUF file, that says what the model is; its weights: `weights=`.
        architecture: says it instead of that: a class of transformers, such as LlamaForCausalLM.
        config: its values that differ from the architecture's default config.
        context: the tokens that a sequence may have.

    Raises:
        UserError: there is no such model, or it does not generate text token by token.
    """
    from edgecompile.models.builders import architecture_named, config_of

    if architecture is not None:
        cls = architecture_named(architecture)
        return _step(cls, config_of(cls, dict(config or {})), context)
    if not path:
        raise UserError("model.build.path is missing: name a save_pretrained directory or a .gguf file: weights=PATH")
    return _step(*_described(resource_path(path, "model.build.path")), context)


def _step(cls: Any, config: Any, context: int) -> CausalStep:
    with torch.no_grad():
        return causal_lm_of(cls, config, context)


def _described(path: Path) -> tuple[Any, Any]:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if is_gguf(path):
        config = gguf_config(path)
    elif (path / "config.json").is_file():
        try:
            config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}/config.json: {str(error).splitlines()[0]}") from None
    else:
        raise UserError(f"{path}: no config.json there: name a directory that save_pretrained wrote, or a .gguf file")
    config = config.get_text_config()
    try:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config
    except KeyError:
        raise UserError(f"{path}: {type(config).__name__} is of no causal language model of transformers") from None
