"""The front half that compiling and profiling share: a model as a chain of units, checked between the steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgecompile import verify
from edgecompile.capture import FlatModel, capture
from edgecompile.domain import ModelSpec
from edgecompile.passes import run_passes
from edgecompile.schema import Conf
from edgecompile.units import Chain, build_chain

__all__ = ["chain_of"]


def chain_of(flat: FlatModel, spec: ModelSpec, examples: Sequence[torch.Tensor], conf: Conf) -> Chain:
    """Captures the model for inputs of these shapes, runs the passes and groups operators into units.

    Args:
        examples: one microbatch, an input each, batch dimension first.

    Raises:
        UserError: the model cannot be captured or cut, or its outputs are not batched.
    """
    captured = run_passes(capture(flat, spec, examples, conf.capture), examples, conf.passes)
    verify.check_captured(captured)
    chain = build_chain(captured)
    verify.check_chain(chain)
    verify.check_outputs(chain, len(examples[0]))
    return chain
