"""Builders for `_target_` in a model option: transformers architectures by name, and a sentence encoder."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecompile.config.model_spec import ModelSpec
from edgecompile.contract.errors import UserError, nearest
from edgecompile.execution.torchscript import silence_deprecation
from edgecompile.frontend.golden.golden_items import golden_inputs
from edgecompile.models.mapped_memory import MappedMemory
from edgecompile.models.preparation import fill_lazy, plain_module, unmade_weights
from edgecompile.models.user_modules import find_named_modules, why_not_found

__all__ = ["architecture_named", "build_model", "config_of", "from_directory", "from_transformers", "sentence_encoder"]


def build_model(
    spec: ModelSpec, seed: int, memory: MappedMemory | None = None, *, filled: bool = False,
    given: nn.Module | None = None,
) -> nn.Module:  # fmt: skip
    """Calls the option's `_target_` with seeded random numbers; returns the module in eval mode, without gradients.

    Args:
        memory: where its large weights are; without one they are in memory.
        filled: all weights come from a file: those of our own builders' models are then not drawn at random.
        given: the module itself, in place of what would build it; it is changed.

    Raises:
        UserError: the target cannot be imported, fails, or returns no nn.Module, or one that cannot be captured.
    """
    silence_deprecation()  # some models are decorated with torch.jit.script
    if given is None or "transformers" in sys.modules:
        _hush_transformers()
    # torch's fused encoder writes zeros where the mask pads; what is captured, and what trains, does not.
    torch.backends.mha.set_fastpath_enabled(False)
    torch.manual_seed(seed)
    target = spec.build["_target_"]
    module = _built(spec, memory, filled=filled) if given is None else given
    if not isinstance(module, nn.Module):
        raise UserError(f"model.build: {target} returned {type(module).__name__}: expected an nn.Module")
    if not any(True for _ in module.parameters()) and not any(True for _ in module.modules()):
        raise UserError(f"model.build: {target} returned an empty module")
    module = plain_module(module, target).eval()
    if unmade_weights(module):
        fill_lazy(module, spec, golden_inputs(spec, module, seed), seed)
    if memory is not None:
        memory.adopt(module)
    return module.requires_grad_(False)


def _built(spec: ModelSpec, memory: MappedMemory | None, *, filled: bool) -> Any:
    """What the option's `_target_` returns."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    target = spec.build["_target_"]
    find_named_modules(spec.build)
    ours = memory is not None and target.startswith(f"{__name__.rpartition('.')[0]}.")
    try:
        with memory.parameters(filled_later=filled) if memory is not None and ours else nullcontext():
            return instantiate(dict(spec.build), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        reason = f"{type(cause).__name__}: {cause}" if cause is not None else str(error).splitlines()[0]
        if cause is None or isinstance(cause, (ImportError, AttributeError)):
            reason += why_not_found(target)
        raise UserError(f"model.build: {target} cannot build the model {spec.name!r}: {reason}") from error


def _hush_transformers() -> None:
    """Its advice on training and loading is not for those who compile."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def from_transformers(architecture: str | None = None, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Any `transformers` architecture, with random weights, from a config: no download.

    Args:
        architecture: a class of `transformers`, such as `ViTForImageClassification`, or a dotted path to one.
        config: values that differ from the architecture's default config.

    Raises:
        UserError: no such architecture, or a config key that it does not know.
    """
    cls = architecture_named(architecture)
    return _from_config(cls, config_of(cls, dict(config or {})))


def from_directory(path: str | None = None, architecture: str | None = None) -> nn.Module:
    """The architecture that a `save_pretrained` directory describes in its config.json (its weights: `weights=`).

    Raises:
        UserError: the directory has no readable config.json, or names no architecture.
    """
    import transformers

    if not path:
        raise UserError("model.build.path is missing: name a save_pretrained directory, such as weights=DIR")
    if not (Path(path) / "config.json").is_file():
        raise UserError(f"{path}: no config.json there: name a directory that save_pretrained wrote")
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}/config.json: {str(error).splitlines()[0]}") from None
    names = getattr(config, "architectures", None) or []
    if architecture is None and not names:
        raise UserError(f"{path}/config.json names no architecture: give model.build.architecture=BertModel")
    config.use_cache = False
    return _from_config(architecture_named(architecture or names[0]), config)


class sentence_encoder(nn.Module):
    """A transformers encoder, mean-pooled over the tokens that the mask keeps, and scaled to length 1.

    Takes `input_ids`, `attention_mask` (B, tokens) int64; returns `embedding` (B, hidden) float32.
    """

    def __init__(self, architecture: str, config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        cls = architecture_named(architecture)
        self.encoder = _from_config(cls, config_of(cls, dict(config or {})), add_pooling_layer=False)
        self.weights_target = "encoder"

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask.to(states.dtype).unsqueeze(-1)
        pooled = (states * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
        return {"embedding": nn.functional.normalize(pooled, dim=-1)}


def architecture_named(name: str | None) -> Any:
    """The class of transformers, or of another module. Raises UserError."""
    import transformers

    if not name:
        raise UserError("model.build.architecture is missing: name one, such as BertModel")
    module_name, _, class_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name) if module_name else transformers
        cls = getattr(module, class_name)
    except (ImportError, AttributeError) as error:
        known = [item for item in dir(transformers) if item[0].isupper()]
        if not module_name and class_name in known:  # it is there, and what it needs is not
            raise UserError(f"model.build.architecture: transformers cannot load {name}: {error}") from error
        near = nearest(class_name, known)
        hint = f": did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"model.build.architecture: transformers has no {name!r}{hint}") from None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)) or getattr(cls, "config_class", None) is None:
        raise UserError(f"model.build.architecture: {name} is not a model architecture")
    return cls


def config_of(cls: Any, values: dict[str, Any]) -> Any:
    """The architecture's config with these values. Raises UserError for a key that it does not know."""
    default = cls.config_class()
    for key in values:
        if not hasattr(default, key) and not _reads(cls, key):
            near = nearest(key, [name for name in vars(default) if name[0] != "_"])
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"model.build.config.{key}: {cls.config_class.__name__} has no such key{hint}")
    values.setdefault("use_cache", False)
    try:
        return cls.config_class(**values)
    except Exception as error:  # the libraries' own checks raise many kinds
        raise UserError(f"model.build.config: {cls.config_class.__name__}: {str(error).splitlines()[0]}") from None


def _reads(cls: Any, key: str) -> bool:
    """Whether the architecture's code asks for a key that its config class leaves out: getattr(config, "KEY", ...)."""
    try:
        return f'"{key}"' in inspect.getsource(sys.modules[cls.__module__])
    except OSError:  # no source is installed
        return False


def _from_config(cls: Any, config: Any, **extra: Any) -> nn.Module:
    from transformers import PreTrainedModel

    if issubclass(cls, PreTrainedModel) and "add_pooling_layer" not in extra:
        module: nn.Module = cls._from_config(config, dtype=torch.float32)
    else:
        module = cls(config, **extra)
    return module.float()
