"""Golden items at other sizes than the largest: what the eager model makes of them, and whether padding matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from edgecompile.config.model_spec import ModelSpec
from edgecompile.contract.dim_rules import BATCH
from edgecompile.execution.closeness import difference, scale_of
from edgecompile.frontend.capture.captured import Captured
from edgecompile.frontend.capture.dims import NotSymbolic, Sizes, resize
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.module_state import ModuleState
from edgecompile.frontend.capture.sampling import InputDims, Sampling, cut
from edgecompile.frontend.golden.eager import Batch, Eager, ModelFails, Outputs

__all__ = ["OtherSizes", "SizedItems", "differs", "other_sizes", "padding_of", "size_notes"]

_ROUNDING = 1e-5
"""Of the largest value: what another order of the same sums may change, where the golden items' tolerance is less."""
_PADDED_ROWS = (0, 1, 3)
_FEW, _SHARES = (1, 3), (0.0, 0.1, 0.3, 0.6, 1.0)
"""Extents at which padding is tried, and where between the least extent and one short of the largest."""


@dataclass(frozen=True, kw_only=True)
class SizedItems:
    """One message of other sizes than the golden items have."""

    sizes: Sizes
    inputs: Batch
    outputs: Outputs
    """Of the eager model."""


@dataclass(frozen=True, kw_only=True)
class OtherSizes:
    """What is known of the model at other sizes than the largest; empty where its sizes are fixed."""

    items: tuple[SizedItems, ...] = ()
    padding: Mapping[str, float] = field(default_factory=dict)
    """As in ModelInfo."""
    why_alike: str = ""
    """Why padding was not tried; empty: it was."""


def other_sizes(
    flat: FlatModel,
    captured: Captured,
    output_dims: InputDims,
    golden: Sequence[torch.Tensor],
    why_alike: str = "",
    padding: Mapping[str, float] | None = None,
) -> OtherSizes:
    """
    Args:
        output_dims: for each output the dimension of each axis.
        why_alike: as in CaptureRequest.alike: padding is not tried then.
        padding: what is known of it, for any number of items; None: it is tried.

    Raises:
        NotSymbolic: the model fails at some size, or its graph gives other results there.
    """
    state = ModuleState(flat.module)
    try:
        items = _items(flat, captured, golden)
        if padding is None:
            padding = {} if why_alike else padding_of(flat, captured, output_dims, golden)
        return OtherSizes(items=items, padding=padding, why_alike=why_alike)
    finally:
        state.restore()  # what a model keeps of these runs is not to be met by those that look for such a model


def _items(flat: FlatModel, captured: Captured, golden: Sequence[torch.Tensor]) -> tuple[SizedItems, ...]:
    """A few messages: the smallest, some between, and one short of the largest; none where the graph's sizes are fixed.

    Raises:
        NotSymbolic: the model fails at one of them, or the graph gives other results than the model.
    """
    sampling = captured.sampling
    if sampling is None:
        return ()
    eager, found = Eager(flat, golden), []
    for sizes in _tried(sampling):
        inputs = cut(golden, sampling.input_dims, sizes)
        shown = ", ".join(f"{name} {extent}" for name, extent in sizes.items())
        try:
            outputs = eager.run_batch(inputs)
        except ModelFails as error:
            raise NotSymbolic(f"the model fails at {shown}: {error}") from error
        resize(captured.graph_module.graph, sizes)
        with torch.no_grad():
            given = fx.Interpreter(captured.graph_module).run(*(value.clone() for value in inputs))
        wrong = differs(given, outputs)
        if wrong is not None:
            name = captured.output_names[wrong]
            raise NotSymbolic(f"its graph gives another {name!r} than the model at {shown}")
        found.append(SizedItems(sizes=sizes, inputs=inputs, outputs=outputs))
    resize(captured.graph_module.graph, sampling.largest)
    return tuple(found)


def _tried(sampling: Sampling) -> list[Sizes]:
    most = sampling.dims[BATCH].max
    if len(sampling.dims) == 1:
        return [{BATCH: batch} for batch in (1, min(3, most - 1)) if batch < most]
    batches = (1, 1, min(2, most), min(3, most), most)
    shares = (0.0, 0.07, 1.0, 0.4, 0.2)
    return [
        {
            name: batch if name == BATCH else _between(dim.min, max(dim.min, dim.max - 1), share)
            for name, dim in sampling.dims.items()
        }
        for batch, share in zip(batches, shares, strict=True)
    ]


def _between(least: int, most: int, share: float) -> int:
    return least + round((most - least) * share)


def differs(given: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], allowed: Sequence[float] = ()) -> int | None:
    """The first output that is another; `allowed`: for each, the largest absolute difference."""
    for index, (one, other) in enumerate(zip(given, wanted, strict=True)):
        if one.shape != other.shape or one.dtype != other.dtype:
            return index
        if not one.is_floating_point():
            if not torch.equal(one, other):
                return index
            continue
        bound = max(allowed[index] if allowed else 0.0, _ROUNDING * scale_of(other))
        if not difference(one, other) <= bound:
            return index
    return None


def size_notes(spec: ModelSpec, captured: Captured, sized: OtherSizes) -> list[str]:
    """What a user should know of the sizes that the plan takes."""
    named = " and ".join(f"{name} {dim.max}" for name, dim in spec.dims.items())
    if captured.why_fixed and not spec.dims:
        return [f"every message is filled up to the microbatch: {captured.why_fixed}"]
    if captured.why_fixed:
        return [f"every item is padded to {named}: {captured.why_fixed}"]
    if captured.sampling is not None and spec.dims and not sized.padding:
        names = " and ".join(spec.dims)
        why = sized.why_alike or "padding changes the model's results"
        return [f"items of different {names} never share a message: {why}"]
    return []


def padding_of(
    flat: FlatModel, captured: Captured, output_dims: InputDims, golden: Sequence[torch.Tensor]
) -> Mapping[str, float]:
    """What fills each input beyond an item's own extents, where that changes none of its results; else nothing.

    Args:
        output_dims: for each output the dimension of each axis.
    """
    sampling = captured.sampling
    if sampling is None or len(sampling.dims) < 2:
        return {}
    values = {
        name: float(_pad_value(name, value, flat))
        for name, value, dims in zip(captured.input_names, golden, sampling.input_dims, strict=True)
        if any(dim not in (None, BATCH) for dim in dims)
    }
    eager, state = Eager(flat, golden), ModuleState(flat.module)
    try:
        unmoved = all(_unmoved(eager, captured, output_dims, sizes, values) for sizes in _padded_sizes(sampling))
    finally:
        state.restore()
    return values if unmoved else {}


def _padded_sizes(sampling: Sampling) -> list[Sizes]:
    """From one position on, also where the least extent is more, since a run pads what is shorter to that.

    The first few are where padding is felt that longer items drown: the largest of some values, the first of them.
    """
    rows = {BATCH: len(_PADDED_ROWS)}
    dims = {name: dim for name, dim in sampling.dims.items() if name != BATCH}
    found = [{name: min(few, dim.max - 1) for name, dim in dims.items()} for few in _FEW]
    found += [{name: _between(dim.min, dim.max - 1, share) for name, dim in dims.items()} for share in _SHARES]
    return [{**rows, **sizes} for sizes in {tuple(sizes.items()): sizes for sizes in found}.values()]


def _unmoved(
    eager: Eager,
    captured: Captured,
    output_dims: InputDims,
    small: Sizes,
    values: Mapping[str, float],
) -> bool:
    """Whether items' results are the same at their own sizes and padded, beside a larger one.

    Where the model takes no items as short as these, there is nothing to compare with.
    """
    sampling = captured.sampling
    assert sampling is not None
    items = [value[list(_PADDED_ROWS)] for value in eager.inputs]
    own = cut(items, sampling.input_dims, small)
    larger = cut([value[:1] for value in eager.inputs], sampling.input_dims, {**sampling.largest, BATCH: 1})
    names = captured.input_names
    padded = tuple(
        torch.cat([_filled(part, like, values.get(name, 0.0)), like])
        for name, part, like in zip(names, own, larger, strict=True)
    )
    try:
        alone = eager.run_batch(own)
    except ModelFails:
        return any(small[name] < dim.min for name, dim in sampling.dims.items())
    try:
        together = [value[: len(_PADDED_ROWS)] for value in eager.run_batch(padded)]
    except ModelFails:
        return False
    return differs(cut(together, output_dims, small), alone) is None


def _filled(part: torch.Tensor, like: torch.Tensor, value: float) -> torch.Tensor:
    whole = torch.full_like(like, value).repeat(len(part), *[1] * (part.dim() - 1))
    whole[tuple(slice(extent) for extent in part.shape)] = part
    return whole


def _pad_value(name: str, value: torch.Tensor, flat: FlatModel) -> int:
    """A mask hides what it is 0 for; ids are the model's own padding."""
    own = getattr(flat.module, "padding", {})
    if name in own:
        return int(own[name])
    if "mask" in name or "type" in name or "position" in name or value.is_floating_point():
        return 0
    configs = (getattr(module, "config", None) for module in flat.module.modules())
    found = getattr(next((item for item in configs if item is not None), None), "pad_token_id", None)
    return found if isinstance(found, int) and found >= 0 else 0
