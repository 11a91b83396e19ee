"""Loads weights into a model; errors name what does not fit, is missing, or is not finite."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecompile.config.resources import resource_path
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.models.google_vit import read_google
from edgecompile.models.mapped_memory import MappedMemory
from edgecompile.models.unused_weights import check_unused
from edgecompile.models.weight_files import PICKLES, is_known, read_stored

__all__ = ["Loaded", "check_numbers", "load_weights"]

_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Loaded:
    module: nn.Module
    origin: str
    """Where the weights came from, in words."""
    notes: tuple[str, ...] = ()
    """What the plan should say of them."""


def load_weights(
    module: nn.Module,
    location: str,
    prefix: str = "",
    ignore_unused: bool = False,
    memory: MappedMemory | None = None,
) -> Loaded:
    """The model with the weights of a file.

    Args:
        module: the model; where it has a `weights_target`, the weights are that submodule's.
        location: Google's ViT .npz, a .safetensors file, what torch.save wrote, or a `save_pretrained` directory.
        prefix: what the file's names begin with and the model's do not; names without it are not read.
        memory: told of what is mapped.
        ignore_unused: load also where the file's unused tensors tell of another model.

    Raises:
        UserError: no such file, a damaged one, a tensor that is missing, of another shape or kind, or no number, or
            unused ones that tell of another model; names it.
    """
    path = resource_path(location, "weights")
    name = getattr(module, "weights_target", None)
    target = module.get_submodule(name) if name else module
    if path.suffix == ".npz":
        files: Sequence[Path] = [path]
        loaded, unused = _load_google(target, path, prefix, ignore_unused)
    elif is_known(path):
        stored = read_stored(path)
        files = stored.files
        if memory is not None:
            memory.watch(stored.mapped)
        loaded, unused = _load_by_name(target, stored.tensors, path, prefix, ignore_unused)
    else:
        raise UserError(
            f"invalid value {path} for weights: expected a .npz, a .safetensors or .gguf file, tensors that torch.save "
            f"wrote ({', '.join(PICKLES)}) or a directory"
        )
    check_numbers(loaded, f"weights: {path}")
    if name:
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, loaded)
    else:
        module = loaded
    return Loaded(
        module=module.eval().requires_grad_(False),
        origin=", ".join(f"{file.name} sha256 {file_sha256(file)[:16]}" for file in files),
        notes=_unused_note(path, unused),
    )


def _load_google(module: nn.Module, path: Path, prefix: str, ignore_unused: bool) -> tuple[nn.Module, list[str]]:
    if prefix:
        raise UserError(f"invalid value {prefix!r} for weights_prefix: the names in a .npz are Google's own")
    state, unused = read_google(path, module)
    check_unused(dict.fromkeys(unused), (), module, path, ignore_unused, whole=True)
    return _fill(module, state, path)[0], unused


def _load_by_name(
    module: nn.Module, tensors: dict[str, torch.Tensor], path: Path, prefix: str, ignore_unused: bool
) -> tuple[nn.Module, list[str]]:
    state, others = _without_prefix(tensors, prefix, path)
    loaded, unused = _fill(module, state, path)
    used = set(_own(loaded)) | (set(state) - set(unused))
    check_unused({name: state.get(name) for name in unused}, used, loaded, path, ignore_unused)
    return loaded, [*unused, *others]


def check_numbers(module: nn.Module, where: str) -> None:
    """Raises UserError where a parameter or a running statistic is NaN or infinite, or a buffer NaN; names them all.

    A buffer may be infinite: masks are.
    """
    found = []
    for name, own in (*module.named_parameters(), *module.named_buffers()):
        dense = own.layout is torch.strided and not _is_unset(own)
        if not dense or not (own.is_floating_point() or own.is_complex()):
            continue
        value = own.detach().to(torch.float32) if own.element_size() == 1 else own  # eight bits: hardly any operators
        if bool(value.detach().sum().isfinite()):  # one pass and no copy; a sum may overflow where no value does
            continue
        may_be_infinite = name not in _parameters(module) and not name.rpartition(".")[2].startswith("running_")
        wrong = value.isnan() if may_be_infinite else ~value.isfinite()
        if count := int(wrong.sum()):
            found.append(f"{name} ({count} of {value.numel()} values)")
    if found:
        raise UserError(f"{where}: NaN or infinite values in {_some(found)}: the model would compute NaN; give weights "
                        "that are numbers")  # fmt: skip


def _parameters(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters(remove_duplicate=False)}


def _is_unset(value: torch.Tensor) -> bool:
    return value.is_meta or nn.parameter.is_lazy(value)


def _unused_note(path: Path, names: Collection[str]) -> tuple[str, ...]:
    if not names:
        return ()
    count = f"{len(names)} tensors" if len(names) > 1 else "one tensor"
    return (f"weights: the model does not use {count} of {path.name}: {_some(sorted(names))}",)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _MOST_NAMED} more" if len(listed) > _MOST_NAMED else ""
    return ", ".join(listed[:_MOST_NAMED]) + more


def _without_prefix(
    state: dict[str, torch.Tensor], prefix: str, path: Path
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors whose names begin with the prefix, without it; the names of the others."""
    if not prefix:
        return state, []
    stripped = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    if not stripped:
        raise UserError(
            f"weights_prefix: no name in {path} begins with {prefix!r}: its names are {_some(sorted(state))}"
        )
    return stripped, [name for name in state if not name.startswith(prefix)]


# --- into the model ------------------------------------------------------------------------------------------------


def _fill(module: nn.Module, given: Mapping[str, torch.Tensor], path: Path) -> tuple[nn.Module, list[str]]:
    """Puts the tensors in place: by name, or by the names that transformers knows an older checkpoint under.

    Returns:
        The module, and the names that it does not use.
    """
    own = _own(module)
    groups = _tied(own)
    state = _under_every_name(given, groups, path)
    wanted = [group for group in groups if not group[0].endswith("num_batches_tracked")]
    if all(group[0] in state for group in wanted):
        _check_kinds(state, own, path)
        known = {name: value for name, value in state.items() if name in own}
        without_values = any(value.is_meta for value in own.values())
        if without_values:
            known = {name: value.to(own[name].dtype) for name, value in known.items()}
        module.load_state_dict(known, strict=False, assign=without_values)  # otherwise converts them one by one
        return module, _unknown(module, given)
    module, missing, unused = _through_transformers(module, state, wanted, path)
    if missing:
        own = _own(module)
        named = [f"{name} {list(own[name].shape)}" if name in own and not _is_unset(own[name]) else name
                 for name in missing]  # fmt: skip
        raise UserError(f"weights: {path} lacks {_some(named)}{_prefix_hint(wanted, given)}")
    return module, unused


def _own(module: nn.Module) -> dict[str, torch.Tensor]:
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _tied(own: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """The names of each tensor, the first one first."""
    groups: dict[object, list[str]] = {}
    for name, value in own.items():
        empty = _is_unset(value) or not value.numel()
        key: object = id(value) if empty else (value.data_ptr(), tuple(value.shape), value.stride())
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _under_every_name(
    state: Mapping[str, torch.Tensor], groups: Sequence[Sequence[str]], path: Path
) -> dict[str, torch.Tensor]:
    """The state with each tied tensor under all of its names, whichever the file has.

    Raises:
        UserError: the file has several of the names, with different values.
    """
    filled = dict(state)
    for group in groups:
        held = [name for name in group if name in state]
        for name in held[1:]:
            one, other = state[name], state[held[0]]
            if one.shape == other.shape and not (torch.equal(one, other) or _equal_or_nan(one, other)):
                raise UserError(
                    f"weights: {path}: {held[0]} and {name} are one tensor in the model and differ in the file: choose "
                    "a model option that does not tie them (transformers: tie_word_embeddings: false)"
                )
        if held:
            filled.update((name, state[held[0]]) for name in group if name not in state)
    return filled


def _equal_or_nan(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _check_kinds(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], path: Path) -> None:
    for name, value in state.items():
        if name not in own or nn.parameter.is_lazy(own[name]):
            continue
        if own[name].shape != value.shape:
            raise _misfit(path, name, value.shape, own[name].shape)
        if own[name].is_floating_point() and not value.is_floating_point():
            raise _no_floats(path, name, value)
        if value.is_floating_point() and not own[name].is_floating_point():
            dtype = own[name].dtype
            if not torch.equal(value.to(dtype).to(value.dtype), value):
                raise UserError(
                    f"weights: {path}: the tensor {name} has fractions, the model wants "
                    f"{str(dtype).removeprefix('torch.')}: give the tensor as the model stores it"
                )


def _no_floats(path: Path, name: str, value: torch.Tensor) -> UserError:
    dtype = str(value.dtype).removeprefix("torch.")
    return UserError(
        f"weights: {path}: the tensor {name} is {dtype}, the model wants floats: codes of a quantised model are "
        "not weights; give the original ones"
    )


def _unknown(module: nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """The names that the module does not use, but for those that transformers knows to be of no account.

    A buffer that the model makes itself counts as used where the file's is the same.
    """
    own, buffers = module.state_dict(), dict(module.named_buffers())
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    ignored = re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)")
    names = [name for name in state if name not in own and not ignored.search(name)]
    return [name for name in names if not (name in buffers and _same(buffers[name], state[name]))]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and not _is_unset(one) and torch.equal(one, other.to(one.dtype))


def _through_transformers(
    module: nn.Module, state: dict[str, torch.Tensor], wanted: Sequence[Sequence[str]], path: Path
) -> tuple[nn.Module, list[str], list[str]]:
    """The module as transformers loads it, the names that it lacks, and those that it does not use."""
    from transformers import PreTrainedModel

    if not isinstance(module, PreTrainedModel):
        return module, sorted(group[0] for group in wanted if group[0] not in state), []
    for name, value in state.items():
        if name.endswith(".weight") and value.dim() > 1 and not value.is_floating_point():
            raise _no_floats(path, name, value)
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
        name, found, wanted_shape = mismatched[0]
        raise _misfit(path, name, found, wanted_shape)
    return loaded, sorted(report["missing_keys"]), sorted(report["unexpected_keys"])


def _prefix_hint(wanted: Sequence[Sequence[str]], state: Mapping[str, torch.Tensor]) -> str:
    """What to do, where the file's names and the model's differ by a constant beginning."""
    for name in wanted[0]:
        for other in state:
            prefix = other.removesuffix(name)
            if other.endswith(f".{name}") and all(any(prefix + one in state for one in group) for group in wanted):
                return f": its names begin with {prefix!r}, the model's do not: give weights_prefix={prefix}"
    firsts = {name.partition(".")[0] for name in state}
    if len(firsts) == 1 and not any(name.startswith(f"{min(firsts)}.") for group in wanted for name in group):
        prefix = f"{min(firsts)}."
        return f": all its names begin with {prefix!r}, none of the model's does: try weights_prefix={prefix}"
    return ""


def _misfit(path: object, name: str, found: Any, wanted: Any) -> UserError:
    return UserError(
        f"weights: {path}: the tensor {name} has the shape {list(found)}, the model wants {list(wanted)}: "
        "choose the model option that the file was made for"
    )
