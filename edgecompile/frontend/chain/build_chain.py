"""Builds a checked chain of units from a model; the part that compiling and profiling share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgecompile.config.model_spec import ModelSpec
from edgecompile.config.request import CaptureRequest
from edgecompile.contract.errors import UserError
from edgecompile.frontend.capture.trace import FlatModel, capture
from edgecompile.frontend.chain import step_checks as verify
from edgecompile.frontend.chain.units import Chain, build_chain
from edgecompile.frontend.golden.purity import check_graph, explain_failure
from edgecompile.frontend.passes import run_passes

__all__ = ["chain_of"]


def chain_of(flat: FlatModel, spec: ModelSpec, examples: Sequence[torch.Tensor], request: CaptureRequest) -> Chain:
    """Captures the model for inputs of these shapes, runs the passes and groups operators into units.

    Args:
        examples: one microbatch, an input each, batch dimension first.

    Raises:
        UserError: the model cannot be captured or cut, is random or keeps state, or its outputs are not batched.
    """
    try:
        whole = capture(flat, spec, examples, request.method)
    except UserError:
        explain_failure(flat, examples)
        raise
    check_graph(whole)
    captured = run_passes(whole, examples, request.passes)
    verify.check_captured(captured)
    chain = build_chain(captured)
    verify.check_chain(chain)
    verify.check_outputs(chain, len(examples[0]))
    return chain
