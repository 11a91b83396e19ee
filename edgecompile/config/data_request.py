"""The data option as a frozen object: what the model's inputs and results are to a person."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgecompile.config.methods import Pixels
from edgecompile.config.model_spec import ModelSpec
from edgecompile.config.resources import resource_path
from edgecompile.config.schema import DataConf
from edgecompile.config.value_checks import between, member
from edgecompile.contract.closed_sets import DataKind, Interpolation, ResultKind
from edgecompile.contract.errors import UserError, choices, invalid_value
from edgecompile.contract.files.user_files import read_text
from edgecompile.contract.plan import ImageSpec
from edgecompile.contract.validation import MOST_LABELS, MOST_PIXELS

__all__ = ["DataRequest", "Scaling", "TextRequest", "check_data_words", "data_of", "pixel_scaling"]

MAX_LABELS_BYTES = 64 << 20

Scaling = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of each channel."""


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """How sentences become the model's inputs."""

    tokenizer: str | None
    """A path, or pkg://; null: beside the weights, if there is one."""
    max_length: int
    ids: str
    mask: str | None
    types: str | None


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    kind: DataKind
    image: ImageSpec | None
    """Given for images."""
    text: TextRequest | None
    """Given for text."""
    result: ResultKind
    scores: str | None
    labels: tuple[str, ...]
    top_k: int


def check_data_words(conf: DataConf) -> None:
    """What can be wrong whatever the model is. Raises UserError."""
    member(DataKind, conf.kind, "data.kind")
    member(ResultKind, conf.result, "data.result")
    member(Pixels, conf.pixels, "data.pixels")
    member(Interpolation, conf.interpolation, "data.interpolation")
    between(conf.top_k, 1, MOST_LABELS, "data.top_k")
    for key, value in (("resize", conf.resize), ("max_length", conf.max_length)):
        if value is not None and value < 1:
            raise invalid_value(value, f"data.{key}", "1 or more, or null")


def data_of(conf: DataConf, spec: ModelSpec) -> DataRequest:
    """
    Args:
        spec: the model that takes these data.

    Raises:
        UserError: a value is not allowed or does not fit the model's inputs, or the labels file cannot be read.
    """
    check_data_words(conf)
    kind = DataKind(conf.kind)
    whole = (conf.scores or "").partition(".")[0]  # parts of a nested result have dotted names
    if conf.scores is not None and spec.outputs and not {conf.scores, whole} & set(spec.outputs):
        outputs = choices(spec.outputs, conf.scores)
        raise UserError(f"the model has no output {conf.scores!r}", key="data.scores", fix=f"its outputs are {outputs}")
    return DataRequest(
        kind=kind,
        image=_image(conf, spec) if kind is DataKind.IMAGE else None,
        text=_text(conf, spec) if kind is DataKind.TEXT else None,
        result=ResultKind(conf.result),
        scores=conf.scores,
        labels=_labels(conf.labels),
        top_k=conf.top_k,
    )


def pixel_scaling(conf: DataConf, spec: ModelSpec) -> Scaling | None:
    """What the first shard does to an image of bytes; None where images travel as the model takes them.

    Raises:
        UserError: the model takes no image, or a channel lacks its figures.
    """
    if member(Pixels, conf.pixels, "data.pixels") is Pixels.FLOAT32:
        return None
    image = spec.inputs[0]
    if conf.kind != DataKind.IMAGE.value or len(image.shape) != 3 or image.dtype != "float32":
        raise UserError("data.pixels: uint8 is for data=image or imagenet and a model whose first input is an image")
    return _scaling(conf.mean, conf.std, image.shape[0])


def _scaling(mean: Sequence[float], std: Sequence[float], num_channels: int) -> Scaling:
    for key, values in (("mean", mean), ("std", std)):
        finite = all(math.isfinite(value) and (value > 0 or key == "mean") for value in values)
        if len(values) != num_channels or not finite:
            limit = "numbers greater than 0" if key == "std" else "numbers"
            raise invalid_value(list(values), f"data.{key}", f"{num_channels} {limit}, one a channel")
    return tuple(mean), tuple(std)


def _image(conf: DataConf, spec: ModelSpec) -> ImageSpec:
    if len(spec.inputs) != 1 or len(spec.inputs[0].shape) != 3 or spec.inputs[0].shape[0] != 3:
        raise UserError("data.kind: image needs a model with one input of the shape [3, height, width]")
    height, width = spec.inputs[0].shape[1:]
    mean, std = _scaling(conf.mean, conf.std, 3)
    longer = max(height, width)
    resize = min(height, width) if conf.resize is None else conf.resize
    if not longer <= resize <= MOST_PIXELS:
        raise invalid_value(resize, "data.resize", f"{longer}, the model's longer side, to {MOST_PIXELS}")
    return ImageSpec(size=(height, width), resize=resize, mean=mean, std=std, interpolation=conf.interpolation)


def _text(conf: DataConf, spec: ModelSpec) -> TextRequest:
    inputs = {item.name: item for item in spec.inputs}
    if conf.ids not in inputs:
        raise UserError(
            f"the model has no input {conf.ids!r}", key="data.ids", fix=f"its inputs are {', '.join(inputs)}"
        )
    shape = inputs[conf.ids].shape
    if not shape:
        raise UserError(
            f"the input {conf.ids!r} has no axis of tokens", key="data.ids", fix="give it the shape [TOKENS]"
        )
    if conf.max_length is not None and conf.max_length != shape[-1]:
        raise invalid_value(conf.max_length, "data.max_length", f"{shape[-1]}, as long as {conf.ids}, or null")
    if conf.tokenizer is not None:
        resource_path(conf.tokenizer, "data.tokenizer")
    return TextRequest(
        tokenizer=conf.tokenizer,
        max_length=shape[-1],
        ids=conf.ids,
        mask=conf.mask if conf.mask in inputs else None,
        types=conf.types if conf.types in inputs else None,
    )


def _labels(labels: object) -> tuple[str, ...]:
    """Class names from a list, or from a text file with one a line.

    Raises:
        UserError: the file cannot be read, or a name is missing or no text.
    """
    if labels is None:
        return ()
    where = "data.labels"
    if isinstance(labels, list):
        for index, label in enumerate(labels):
            if isinstance(label, bool) or not isinstance(label, (str, int)):
                raise UserError(f"{label!r} is not text", key=f"{where}.{index}", fix="put it in quotes")
        found = [str(label) for label in labels]
    else:
        path = resource_path(str(labels), where)
        where = f"{where}: {path}"
        text = read_text(path, what="labels file", max_bytes=MAX_LABELS_BYTES, hint="one class name per line, as UTF-8")
        found = [line.strip() for line in text.rstrip().split("\n")]
    if "" in found:
        problem = f"entry {found.index('') + 1} is empty, and would be a class's name"
        raise UserError(problem, key=where, fix="give it one")
    return tuple(found)
