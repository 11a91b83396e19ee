"""Loads Google's ViT .npz files (Dosovitskiy et al. 2021) under the weight names of transformers' ViT."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgecompile.contract.errors import UserError

__all__ = ["read_google"]


def read_google(path: Path, module: nn.Module) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The module's tensors by name, and the names of the file's arrays that it does not use.

    Raises:
        UserError: the module is not a ViT classifier; the file is damaged, lacks an array, or has one of another shape.
    """
    own = module.state_dict()
    if "vit.embeddings.cls_token" not in own:
        raise UserError(
            f"weights: {path}: a .npz holds Google's ViT, but {type(module).__name__} is not a ViT classifier"
        )
    try:
        arrays = np.load(path, allow_pickle=False)
        names = set(arrays.files)
        state = {}
        for name, wanted in own.items():
            source = _google_name(name)
            if source not in names:
                raise UserError(f"weights: {path} lacks {source}, the model's {name} {list(wanted.shape)}")
            state[name] = _transposed(arrays[source], name, wanted.shape, path, source)
        return state, sorted(names - {_google_name(name) for name in own})
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError, KeyError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"weights: {path}: not a readable .npz file ({error}): copy it again") from None


_GOOGLE = {
    "vit.embeddings.cls_token": "cls",
    "vit.embeddings.position_embeddings": "Transformer/posembed_input/pos_embedding",
    "vit.embeddings.patch_embeddings.projection.weight": "embedding/kernel",
    "vit.embeddings.patch_embeddings.projection.bias": "embedding/bias",
    "vit.layernorm.weight": "Transformer/encoder_norm/scale",
    "vit.layernorm.bias": "Transformer/encoder_norm/bias",
    "classifier.weight": "head/kernel",
    "classifier.bias": "head/bias",
}
_GOOGLE_BLOCK = {
    "layernorm_before": "LayerNorm_0",
    "layernorm_after": "LayerNorm_2",
    "attention.q_proj": "MultiHeadDotProductAttention_1/query",
    "attention.k_proj": "MultiHeadDotProductAttention_1/key",
    "attention.v_proj": "MultiHeadDotProductAttention_1/value",
    "attention.o_proj": "MultiHeadDotProductAttention_1/out",
    "mlp.fc1": "MlpBlock_3/Dense_0",
    "mlp.fc2": "MlpBlock_3/Dense_1",
}


def _google_name(name: str) -> str:
    if name in _GOOGLE:
        return _GOOGLE[name]
    match = re.fullmatch(r"vit\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if not match or match[2] not in _GOOGLE_BLOCK:
        return f"a tensor for {name}"
    ending = match[3] if match[3] == "bias" else "scale" if "layernorm" in match[2] else "kernel"
    return f"Transformer/encoderblock_{match[1]}/{_GOOGLE_BLOCK[match[2]]}/{ending}"


def _transposed(array: Any, name: str, wanted: torch.Size, path: Path, source: str) -> torch.Tensor:
    """Google stores kernels as (in, out), heads apart, and patches as (height, width, in, out)."""
    value = torch.from_numpy(np.ascontiguousarray(array)).float()
    found = value.shape
    if name.endswith("projection.weight") and value.dim() == 4:
        value = value.permute(3, 2, 0, 1)
    elif source.endswith("/kernel"):
        if value.dim() == 3 and "/out/" in source:
            value = value.flatten(0, 1)
        elif value.dim() == 3:
            value = value.flatten(1)
        value = value.t() if value.dim() == 2 else value
    elif source.endswith("/bias"):
        value = value.flatten()
    if value.shape != wanted:
        raise UserError(
            f"weights: {path}: the tensor {source} has the shape {list(found)}, as {name} {list(value.shape)}; "
            f"the model wants {list(wanted)}: choose the model option that the file was made for"
        )
    return value.contiguous()
