"""Decides which unused tensors of a weights file are harmless, and which show that it is for another model.

Whole parts that the model lacks are harmless: a pooler, a language model's head, a decoder or another tower. A file of
another model has more in the very parts that the model has: a further member of a list (`layers.12` beside `layers.0`
to `layers.11`, `fc3` beside `fc1` and `fc2`), something inside a member (`layers.0.q_norm`), or something beside a
module's own tensors (a bias). Buffers that models once stored and now make themselves (positions, causal masks,
counters) are harmless.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from edgecompile.contract.errors import UserError

__all__ = ["check_unused"]

_NUMBERED = re.compile(r"(.*?)([0-9]+)")
_BUFFERS = frozenset(
    {"position_ids", "token_type_ids", "num_batches_tracked", "inv_freq", "masked_bias", "attn_mask",
     "relative_position_index", "relative_coords_table", "total_ops", "total_params"}
)  # fmt: skip


def check_unused(
    unused: Mapping[str, torch.Tensor | None],
    used: Collection[str],
    module: nn.Module,
    path: Path,
    ignore: bool,
    whole: bool = False,
) -> None:
    """Refuses a file whose unused tensors tell of another model than `module`.

    Args:
        unused: by name; None where the tensor is not at hand.
        used: the names in use, the model's and the file's.
        ignore: whether to let it pass.
        whole: the file's format holds one model and nothing else, so that any unused tensor tells of another.

    Raises:
        UserError: names the tensor and what in the model it belongs to.
    """
    if ignore:
        return
    lists = _members(used)
    for name in sorted(unused):
        reason = "which the model does not use" if whole else _foreign(name, unused[name], used, lists, module)
        if reason:
            raise UserError(
                f"weights: {path} holds {name}, {reason}: the file is for another model; choose the option that it was "
                "made for, or weights_unused=ignore to leave such tensors out"
            )


def _numbered(name: str) -> Iterator[tuple[str, str, str]]:
    """For each part of a name that ends in a number: what owns it, what stands before the number, and the number.

    Members of a module list are numbers alone; `conv2` and `layer4` are numbered too.
    """
    parts = name.split(".")
    for place, part in enumerate(parts):
        found = _NUMBERED.fullmatch(part)
        if found:
            yield ".".join(parts[:place]), found[1], found[2]


def _members(names: Collection[str]) -> dict[tuple[str, str], set[str]]:
    """The numbers that parts of the same owner, alike but for their numbers, have."""
    lists: dict[tuple[str, str], set[str]] = {}
    for name in names:
        for owner, stem, number in _numbered(name):
            lists.setdefault((owner, stem), set()).add(number)
    return lists


def _foreign(
    name: str,
    value: torch.Tensor | None,
    used: Collection[str],
    lists: Mapping[tuple[str, str], set[str]],
    module: nn.Module,
) -> str:
    """Why the tensor tells of another model; empty where it does not."""
    if _is_buffer(name, value):
        return ""
    for owner, stem, number in _numbered(name):
        known = lists.get((owner, stem), ())
        if known and number not in known:
            last = ".".join(part for part in (owner, f"{stem}{max(known, key=int)}") if part)
            return f"and the last of its kind in the model is {last}"
    parts = name.split(".")
    owner, leaf = ".".join(parts[:-1]), parts[-1]
    beside = [*parts[:-1], {"bias": "weight", "weight": "bias"}.get(leaf, "")]
    if ".".join(beside) in used or _is_torchs_own(module, owner):
        return f"for which the model's {owner or type(module).__name__} has no place"
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal() and (".".join(parts[:place]), "") in lists:
            return f"for which the model's {'.'.join(parts[: place + 1])} has no place"
    return ""


def _is_buffer(name: str, value: torch.Tensor | None) -> bool:
    if name.rpartition(".")[2] in _BUFFERS or (value is not None and not value.is_floating_point()):
        return True
    # GPT-2's causal mask, stored as floats under the name of a bias
    return value is not None and value.dim() == 4 and value.shape[:2] == (1, 1) and name.endswith(".bias")


def _is_torchs_own(module: nn.Module, owner: str) -> bool:
    """Whether `owner` is one of torch's modules that have tensors of their own, such as a Linear."""
    try:
        found = module.get_submodule(owner)
    except AttributeError:
        return False
    return type(found).__module__.startswith("torch.nn.modules.") and bool(found._parameters)
