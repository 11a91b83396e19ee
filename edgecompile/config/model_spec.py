"""The model option as a frozen object: how the module is built, what it takes and what of its result is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgecompile.config.methods import Fill
from edgecompile.config.schema import InputConf, ModelConf
from edgecompile.config.value_checks import at_least, member, named
from edgecompile.contract.dtypes import DTYPE_BYTES
from edgecompile.contract.errors import UserError, invalid_value
from edgecompile.contract.yaml_decode import decode

__all__ = ["InputSpec", "ModelSpec", "as_pixels", "model_of"]


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    name: str
    shape: tuple[int, ...]
    dtype: str
    fill: Fill | None
    high: int | None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    name: str
    build: Mapping[str, Any]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    """The fields of the result to keep; empty: all."""


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
    inputs = tuple(_input(name, value) for name, value in conf.inputs.items())
    return ModelSpec(name=conf.name, build=conf.build, inputs=inputs, outputs=outputs)


def _input(name: object, value: object) -> InputSpec:
    key = f"model.inputs.{name}"
    if not str(name).isidentifier():
        raise invalid_value(name, "model.inputs", "the names of arguments of forward()")
    item = decode(InputConf, value, where=key)
    named(item.dtype, tuple(DTYPE_BYTES), f"{key}.dtype")
    if any(extent < 1 for extent in item.shape):
        raise invalid_value(list(item.shape), f"{key}.shape", "extents of 1 or more")
    return InputSpec(
        name=str(name),
        shape=tuple(item.shape),
        dtype=item.dtype,
        fill=None if item.fill is None else member(Fill, item.fill, f"{key}.fill"),
        high=None if item.high is None else at_least(item.high, 1, f"{key}.high"),
    )


def as_pixels(spec: ModelSpec) -> ModelSpec:
    """The model with its first input, an image, as bytes."""
    image = replace(spec.inputs[0], dtype="uint8", fill=Fill.IDS, high=256)
    return replace(spec, inputs=(image, *spec.inputs[1:]))
