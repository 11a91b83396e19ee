"""Writes the content-addressed files beside the plan: golden items, tokenizer, labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from edgecompile.artifacts.equality import Equality
from edgecompile.artifacts.shards import Shard
from edgecompile.config.data_request import DataRequest, TextRequest
from edgecompile.config.resources import resource_path
from edgecompile.contract.closed_sets import ResultKind
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import store
from edgecompile.contract.plan import DataSpec, Golden, TextSpec
from edgecompile.frontend.capture.captured import Captured
from edgecompile.frontend.chain.units import Boundary
from edgecompile.frontend.golden.golden_items import Reference

__all__ = ["NO_GOLDEN", "check_labels", "data_spec", "write_golden"]

NO_GOLDEN = Golden(file="", sha256="", num_items=0, tolerance={})
"""Of a plan without shards."""


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


def data_spec(request: DataRequest, outputs: tuple[str, ...], weights: str | None, folder: Path) -> DataSpec:
    """What the plan says of inputs and results; copies the tokenizer beside the plan.

    Raises:
        UserError: the data option does not fit the model's outputs, or a file is missing.
    """
    text = None
    if request.text is not None:
        asked = request.text
        tokenizer, digest = _tokenizer(asked, weights, folder)
        text = TextSpec(
            tokenizer=tokenizer,
            sha256=digest,
            max_length=asked.max_length,
            ids=asked.ids,
            mask=asked.mask,
            types=asked.types,
        )
    scores = request.scores
    if scores is None and request.result is ResultKind.LABELS:
        scores = outputs[0]
    if scores is not None and scores not in outputs:
        raise UserError(f"data.scores: the model has no output {scores!r}: its outputs are {', '.join(outputs)}")
    return DataSpec(
        kind=request.kind.value,
        image=request.image,
        text=text,
        result=request.result.value,
        scores=scores,
        labels=request.labels,
        top_k=request.top_k,
    )


def _tokenizer(request: TextRequest, weights: str | None, folder: Path) -> tuple[str | None, str | None]:
    location = request.tokenizer
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
