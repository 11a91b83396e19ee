"""Builds a checked chain of units from a model; the part that compiling and profiling share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from edgecompile.config.model_spec import ModelSpec
from edgecompile.config.request import CaptureRequest
from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Dim
from edgecompile.frontend.capture.captured import Captured
from edgecompile.frontend.capture.dims import NotSymbolic
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.sampling import sampling_of
from edgecompile.frontend.capture.trace import capture, capture_sized
from edgecompile.frontend.chain import step_checks as verify
from edgecompile.frontend.chain.generic import check_generic
from edgecompile.frontend.chain.units import Chain, build_chain
from edgecompile.frontend.golden.purity import check_graph, explain_failure
from edgecompile.frontend.passes import run_passes

__all__ = ["chain_of", "sized_chain_of", "with_limit"]


def chain_of(
    flat: FlatModel,
    spec: ModelSpec,
    examples: Sequence[torch.Tensor],
    request: CaptureRequest,
    why_fixed: str = "",
) -> Chain:
    """Captures the model, runs the passes and groups operators into units.

    The graph takes any number of items up to the microbatch, and all extents of the dimensions that the model option
    names, if the model allows it; otherwise it is for inputs of exactly these shapes, and `captured.why_fixed` says
    why. Where there is only one item and no dimension, nothing varies.

    Args:
        examples: one microbatch, an input each, batch dimension first, at the largest extents.
        why_fixed: why the model does not allow it, where that is known.

    Raises:
        UserError: the model cannot be captured or cut, is random or keeps state, or its outputs are not batched.
    """
    if spec.dims:
        why_fixed = why_fixed or request.fixed
    if (spec.dims or len(examples[0]) > 1) and not (why_fixed or request.fixed):
        try:
            return sized_chain_of(flat, spec, examples, request)
        except NotSymbolic as reason:
            why_fixed = str(reason)
    try:
        whole = capture(flat, spec, examples, request.method)
    except UserError:
        explain_failure(flat, examples)
        raise
    return _chain(replace(whole, why_fixed=why_fixed), examples, request)


def sized_chain_of(
    flat: FlatModel, spec: ModelSpec, examples: Sequence[torch.Tensor], request: CaptureRequest
) -> Chain:
    """As chain_of, for any sizes or not at all.

    Raises:
        UserError: as chain_of.
        NotSymbolic: the model or the request fixes the sizes.
    """
    if request.fixed:
        raise NotSymbolic(request.fixed)
    dims = {BATCH: Dim(min=1, max=len(examples[0])), **spec.dims}
    input_dims = tuple((BATCH, *(item.dims or [None] * len(item.shape))) for item in spec.inputs)
    return _chain(capture_sized(flat, spec, examples, sampling_of(dims, input_dims)), examples, request)


def with_limit(chain: Chain, examples: Sequence[torch.Tensor]) -> Chain:
    """The same chain for as many items a message as the examples have, at most as many as it was captured for."""
    sampling = chain.captured.sampling
    assert sampling is not None
    dims = {**sampling.dims, BATCH: Dim(min=1, max=len(examples[0]))}
    captured = replace(chain.captured, sampling=sampling_of(dims, sampling.input_dims))
    assert captured.sampling is not None
    captured.sampling.settle(captured.graph_module, examples)
    return build_chain(captured)


def _chain(whole: Captured, examples: Sequence[torch.Tensor], request: CaptureRequest) -> Chain:
    check_graph(whole)
    captured = run_passes(whole, examples, request.passes)
    verify.check_captured(captured)
    if captured.sampling is not None:
        check_generic(captured.graph_module.graph)
    chain = build_chain(captured)
    verify.check_chain(chain)
    verify.check_outputs(chain, len(examples[0]))
    return chain
