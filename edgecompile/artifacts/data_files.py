"""Writes the content-addressed files beside the plan: golden items, tokenizer, labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from edgecompile.artifacts.equality import Equality
from edgecompile.artifacts.shards import Shard
from edgecompile.config.domain import ModelSpec
from edgecompile.config.schema import DataConf
from edgecompile.contract.atomic_files import store
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import DataSpec, Golden, ImageSpec, TextSpec
from edgecompile.contract.user_files import read_text
from edgecompile.frontend.capture.trace import Captured
from edgecompile.frontend.chain.units import Boundary
from edgecompile.frontend.golden.golden_items import Reference
from edgecompile.models.weights import resource_path

__all__ = ["check_labels", "data_spec", "write_golden"]

MAX_LABELS_BYTES = 64 << 20


def write_golden(
    reference: Reference, captured: Captured, equality: Equality, whole: Shard | None, folder: Path
) -> Golden:
    """Writes the golden items to `folder/golden/<sha256>.safetensors`.

    Args:
        equality: how the shards compare with the model.
        whole: the unsplit model, if it was kept.
    """
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, value in zip(captured.input_names, reference.inputs, strict=True):
        tensors[f"input.{name}"] = value.clone().contiguous()
    for name, value in zip(captured.output_names, equality.outputs, strict=True):
        tensors[f"output.{name}"] = value.clone().contiguous()
    path, digest = store(folder / "golden", ".safetensors", lambda temporary: save_file(tensors, temporary))
    return Golden(
        file=f"golden/{path.name}",
        sha256=digest,
        num_items=len(reference.inputs[0]),
        tolerance=dict(zip(captured.output_names, equality.tolerance, strict=True)),
        error=_relative(equality.errors, reference, captured),
        eager_error=_relative(reference.own_error, reference, captured),
        reference=None if whole is None else f"golden/{whole.path.name}",
        reference_sha256=None if whole is None else whole.sha256,
    )


def _relative(errors: Sequence[float], reference: Reference, captured: Captured) -> dict[str, float]:
    triples = zip(captured.output_names, errors, reference.scale, strict=True)
    return {name: error / scale if scale else 0.0 for name, error, scale in triples}


def data_spec(conf: DataConf, spec: ModelSpec, outputs: tuple[str, ...], weights: str | None, folder: Path) -> DataSpec:
    """What the plan says of inputs and results; copies the tokenizer beside the plan.

    Raises:
        UserError: the data option does not fit the model's inputs or outputs, or a file is missing.
    """
    names = {item.name: item for item in spec.inputs}
    image = text = None
    if conf.kind == "image":
        image = _image(conf, spec)
    if conf.kind == "text":
        if conf.ids not in names:
            raise UserError(f"data.ids: the model has no input {conf.ids!r}: its inputs are {', '.join(names)}")
        tokenizer, digest = _tokenizer(conf, weights, folder)
        text = TextSpec(
            tokenizer=tokenizer,
            sha256=digest,
            max_length=conf.max_length or names[conf.ids].shape[-1],
            ids=conf.ids,
            mask=conf.mask if conf.mask in names else None,
            types=conf.types if conf.types in names else None,
        )
        if text.max_length != names[conf.ids].shape[-1]:
            raise UserError(
                f"invalid value {text.max_length} for data.max_length: {conf.ids} is {names[conf.ids].shape[-1]} long"
            )
    scores = conf.scores if conf.scores is not None else (outputs[0] if conf.result == "labels" else None)
    if scores is not None and scores not in outputs:
        raise UserError(f"data.scores: the model has no output {scores!r}: its outputs are {', '.join(outputs)}")
    return DataSpec(
        kind=conf.kind,
        image=image,
        text=text,
        result=conf.result,
        scores=scores,
        labels=_labels(conf.labels),
        top_k=conf.top_k,
    )


def _image(conf: DataConf, spec: ModelSpec) -> ImageSpec:
    if len(spec.inputs) != 1 or len(spec.inputs[0].shape) != 3 or spec.inputs[0].shape[0] != 3:
        raise UserError("data.kind: image needs a model with one input of the shape [3, height, width]")
    height, width = spec.inputs[0].shape[1:]
    if len(conf.mean) != 3 or len(conf.std) != 3 or min(conf.std) <= 0:
        raise UserError(
            f"invalid values {conf.mean}, {conf.std} for data.mean, data.std: expected three numbers each, std over 0"
        )
    if conf.interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
        raise UserError(
            f"invalid value {conf.interpolation!r} for data.interpolation: expected nearest, bilinear, bicubic, lanczos"
        )
    resize = conf.resize or min(height, width)
    if resize < max(height, width):
        raise UserError(f"invalid value {resize} for data.resize: expected at least the model's {max(height, width)}")
    return ImageSpec(
        size=(height, width),
        resize=resize,
        mean=tuple(conf.mean),
        std=tuple(conf.std),
        interpolation=conf.interpolation,
    )


def _tokenizer(conf: DataConf, weights: str | None, folder: Path) -> tuple[str | None, str | None]:
    location = conf.tokenizer
    if location is None and weights is not None:
        beside = resource_path(weights, "weights")
        found = (beside if beside.is_dir() else beside.parent) / "tokenizer.json"
        location = str(found) if found.is_file() else None
    if location is None:
        return None, None
    source = resource_path(location, "data.tokenizer")
    if source.is_dir():
        source = source / "tokenizer.json"
    try:
        content = source.read_bytes()
        from tokenizers import Tokenizer

        Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise UserError(f"data.tokenizer: {source}: not a readable tokenizer.json ({error})") from None
    path, digest = store(folder / "tokenizer", ".json", lambda temporary: temporary.write_bytes(content))
    return f"tokenizer/{path.name}", digest


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
                raise UserError(f"{where}.{index}: {label!r} is not text: put it in quotes")
        found = [str(label) for label in labels]
    else:
        path = resource_path(str(labels), where)
        where = f"{where}: {path}"
        text = read_text(path, what="labels file", max_bytes=MAX_LABELS_BYTES, hint="one class name per line, as UTF-8")
        found = [line.strip() for line in text.rstrip().split("\n")]
    if "" in found:
        raise UserError(f"{where}: entry {found.index('') + 1} is empty: give every class a name")
    return tuple(found)


def check_labels(data: DataSpec, results: Boundary) -> None:
    """Raises UserError where there is not a label for each class: one too many or too few shifts what all mean."""
    if not data.labels or data.scores is None:
        return
    shape = next(tensor.shape for tensor in results.tensors if tensor.name == data.scores)
    num_classes = math.prod(shape[1:])
    if len(data.labels) != num_classes:
        raise UserError(
            f"data.labels: names {len(data.labels)} classes, and {data.scores} has {num_classes} scores: give a label "
            "for each, in their order"
        )
