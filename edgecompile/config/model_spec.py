"""The model option as a frozen object: how the module is built, what it takes and what of its result is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgecompile.config.methods import Fill
from edgecompile.config.schema import DimConf, InputConf, ModelConf
from edgecompile.config.value_checks import at_least, member, named
from edgecompile.contract.closed_sets import Cache
from edgecompile.contract.dim_rules import BATCH, MOST_EXTENT
from edgecompile.contract.dtypes import DTYPE_BYTES
from edgecompile.contract.errors import UserError, invalid_value
from edgecompile.contract.plan import Dim
from edgecompile.contract.yaml_decode import decode

__all__ = ["InputSpec", "ModelSpec", "as_pixels", "model_of"]


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    name: str
    shape: tuple[int, ...]
    """At the largest extents."""
    dtype: str
    dims: tuple[str | None, ...] = ()
    """The dimension that each axis is, None where its extent is fixed; empty: all are."""
    fill: Fill | None
    high: int | None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    name: str
    build: Mapping[str, Any]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    """The fields of the result to keep; empty: all."""
    dims: Mapping[str, Dim] = field(default_factory=dict)
    """Those that the inputs name."""
    usual_context: int = 0
    """Of a model that generates text: the tokens that a step sees before its own, on average."""
    cache: Cache = Cache.FP32
    """What its keys and values are kept in."""


def model_of(conf: ModelConf) -> ModelSpec:
    """Raises UserError where the model option lacks something or gives an impossible value."""
    if "_target_" not in conf.build:
        raise UserError("model.build._target_ is missing: name the function or class that returns the nn.Module")
    if not conf.inputs:
        raise UserError(
            f"model.inputs: the model {conf.name!r} names no inputs: give each one's shape (without the batch "
            "dimension) and dtype, such as model.inputs='{input_ids: {shape: [128], dtype: int64}}'"
        )
    if not isinstance(conf.inputs, dict):
        raise invalid_value(conf.inputs, "model.inputs", "a mapping from names to shape and dtype")
    if conf.output is None:
        outputs: tuple[str, ...] = ()
    elif isinstance(conf.output, list):
        outputs = tuple(str(item) for item in conf.output)
    else:
        outputs = (str(conf.output),)
    if conf.dims is not None and not isinstance(conf.dims, dict):
        raise invalid_value(conf.dims, "model.dims", "a mapping from names to min and max")
    dims = {str(name): _dim(str(name), value) for name, value in (conf.dims or {}).items()}
    inputs = tuple(_input(name, value, dims) for name, value in conf.inputs.items())
    named_dims = {name for item in inputs for name in item.dims}
    used = {name: dim for name, dim in dims.items() if name in named_dims}
    return ModelSpec(name=conf.name, build=conf.build, inputs=inputs, outputs=outputs, dims=used)


def _dim(name: str, value: object) -> Dim:
    key = f"model.dims.{name}"
    if not name.isidentifier() or name == BATCH:
        raise invalid_value(name, "model.dims", f"names of dimensions ({BATCH} is always one)")
    item = decode(DimConf, value, where=key)
    if not 1 <= item.min <= item.max <= MOST_EXTENT:
        raise invalid_value([item.min, item.max], key, f"1 <= min <= max <= {MOST_EXTENT}")
    return Dim(min=item.min, max=item.max)


def _extent(value: object, key: str, dims: Mapping[str, Dim]) -> int:
    if isinstance(value, str) and not dims:
        fix = f"declare it: model.dims='{{{value}: {{max: 128}}}}'"
        raise UserError(f"{value!r} is not a dimension of the model", key=f"{key}.shape", fix=fix)
    if isinstance(value, str):
        named(value, tuple(dims), f"{key}.shape")
        return dims[value].max
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise invalid_value(value, f"{key}.shape", "extents of 1 or more, or names of model.dims")
    return value


def _input(name: object, value: object, dims: Mapping[str, Dim]) -> InputSpec:
    key = f"model.inputs.{name}"
    if not str(name).isidentifier():
        raise invalid_value(name, "model.inputs", "the names of arguments of forward()")
    item = decode(InputConf, value, where=key)
    named(item.dtype, tuple(DTYPE_BYTES), f"{key}.dtype")
    names = tuple(extent if isinstance(extent, str) else None for extent in item.shape)
    return InputSpec(
        name=str(name),
        shape=tuple(_extent(extent, key, dims) for extent in item.shape),
        dims=names if any(names) else (),
        dtype=item.dtype,
        fill=None if item.fill is None else member(Fill, item.fill, f"{key}.fill"),
        high=None if item.high is None else at_least(item.high, 1, f"{key}.high"),
    )


def as_pixels(spec: ModelSpec) -> ModelSpec:
    """The model with its first input, an image, as bytes."""
    image = replace(spec.inputs[0], dtype="uint8", fill=Fill.IDS, high=256)
    return replace(spec, inputs=(image, *spec.inputs[1:]))
