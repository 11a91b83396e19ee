""".npz, .safetensors, directories -> a model's weights."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgecompile.errors import UserError
from edgecompile.plan import file_sha256

__all__ = ["load_weights", "resource_path"]

_MOST_NAMED = 3


def resource_path(location: str, key: str) -> Path:
    """A path, or `pkg://PACKAGE/PATH`: a file that an installed Python package ships.

    Raises:
        UserError: nothing is there.
    """
    if not location.startswith("pkg://"):
        path = Path(location).expanduser()
    else:
        package, _, inner = location.removeprefix("pkg://").partition("/")
        try:
            spec = find_spec(package)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"{key}: {location}: the Python package {package!r} is not installed")
        path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.exists():
        raise UserError(f"{key}: {location}: no such file or directory")
    return path


def load_weights(module: nn.Module, location: str) -> tuple[nn.Module, str]:
    """The model with the weights of a file, and where they came from in words.

    Args:
        module: the model; where it has a `weights_target`, the weights are that submodule's.
        location: Google's ViT .npz, a .safetensors file, or a `save_pretrained` directory.

    Raises:
        UserError: no such file, a damaged one, or a tensor that is missing or of another shape; names it.
    """
    path = resource_path(location, "weights")
    name = getattr(module, "weights_target", None)
    target = module.get_submodule(name) if name else module
    if path.suffix == ".npz":
        state = _from_npz(path, target)
    elif path.is_dir():
        state = _from_directory(path)
    elif path.suffix == ".safetensors":
        state = _from_safetensors(path)
    else:
        raise UserError(f"weights: {path} does not do: it must be a .npz, a .safetensors file or a directory")
    loaded = _fill(target, state, path)
    if name:
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, loaded)
    else:
        module = loaded
    return module.eval().requires_grad_(False), _provenance(path)


def _provenance(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return ", ".join(f"{file.name} sha256 {file_sha256(file)[:16]}" for file in files)


def _from_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"weights: {path}: not a readable .safetensors file ({error}): copy it again") from None


def _from_directory(path: Path) -> dict[str, torch.Tensor]:
    index = path / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
            raise UserError(f"weights: {index}: not a readable index of shards: copy it again") from None
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise UserError(f"weights: {index}: names files outside its own directory")
    state: dict[str, torch.Tensor] = {}
    for name in names:
        if not (path / name).is_file():
            raise UserError(f"weights: {path} has no {name}: name a directory that save_pretrained wrote")
        state.update(_from_safetensors(path / name))
    return state


def _fill(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> nn.Module:
    """Puts the tensors in place: by name, or by the names that transformers knows an older checkpoint under."""
    own = module.state_dict()
    wanted = _required(module, own)
    if wanted <= set(state):
        missing: list[str] = []
    else:
        module, missing = _through_transformers(module, state, path)
        own = module.state_dict()
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        named = ", ".join(f"{name} {list(own[name].shape)}" for name in missing[:_MOST_NAMED] if name in own)
        raise UserError(f"weights: {path} lacks {named or ', '.join(missing[:_MOST_NAMED])}{more}")
    if wanted <= set(state):
        for name, value in state.items():
            if name in own and own[name].shape != value.shape:
                raise _misfit(path, name, value.shape, own[name].shape)
        module.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items() if name in own},
                               strict=False)  # fmt: skip
    return module


def _required(module: nn.Module, own: Mapping[str, torch.Tensor]) -> set[str]:
    """The names that a file must hold: tied tensors count once, under the name that comes first."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    names = set()
    for name, value in own.items():
        key = (value.data_ptr(), tuple(value.shape))
        if key in seen and value.numel():
            continue
        seen.add(key)
        names.add(name)
    persistent = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {name for name in names if name in persistent or not name.endswith("num_batches_tracked")}


def _through_transformers(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> tuple[nn.Module, list[str]]:
    from transformers import PreTrainedModel

    own = module.state_dict()
    if not isinstance(module, PreTrainedModel):
        return module, sorted(_required(module, own) - set(state))
    loaded, report = type(module).from_pretrained(
        None,
        config=module.config,
        state_dict=state,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        name, found, wanted = mismatched[0]
        raise _misfit(path, name, found, wanted)
    return loaded, sorted(report["missing_keys"])


def _misfit(path: object, name: str, found: Any, wanted: Any) -> UserError:
    return UserError(
        f"weights: {path}: the tensor {name} has the shape {list(found)}, the model wants {list(wanted)}: "
        "choose the model option that the file was made for"
    )


# --- Google's ViT -------------------------------------------------------------------------------------------------


def _from_npz(path: Path, module: nn.Module) -> dict[str, torch.Tensor]:
    """Google's layout (vision_transformer, Dosovitskiy et al. 2021) under the names of transformers' ViT."""
    own = module.state_dict()
    if "vit.embeddings.cls_token" not in own:
        raise UserError(f"weights: {path}: a .npz holds Google's ViT, but {type(module).__name__} is no ViT classifier")
    try:
        arrays = np.load(path, allow_pickle=False)
        names = set(arrays.files)
        state = {}
        for name, wanted in own.items():
            source = _google_name(name)
            if source not in names:
                raise UserError(f"weights: {path} lacks {source}, the model's {name} {list(wanted.shape)}")
            state[name] = _transposed(arrays[source], name, wanted.shape, path, source)
        return state
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError, AttributeError) as error:
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
