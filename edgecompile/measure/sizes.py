"""The sizes at which units are measured: those of the capture, or a grid of microbatches and extents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.text_rules import TOKENS
from edgecompile.frontend.capture.sampling import cut
from edgecompile.frontend.chain.units import Chain, at_sizes

__all__ = ["MeasuredSize", "chain_at", "grid_of"]


@dataclass(frozen=True, kw_only=True)
class MeasuredSize:
    """One size of a message."""

    microbatch: int
    extents: Mapping[str, int] = field(default_factory=dict)
    """Of the dimension that several are measured of; empty: all are the largest."""

    @property
    def key(self) -> str:
        """As the partial file names it."""
        return " x ".join(str(extent) for extent in (self.microbatch, *self.extents.values()))

    def sizes(self, chain: Chain) -> dict[str, int]:
        """Of the chain's dimensions; none where its shapes are fixed."""
        sampling = chain.captured.sampling
        return {} if sampling is None else {**sampling.largest, BATCH: self.microbatch, **self.extents}

    def tokens(self, chain: Chain) -> int:
        """Of a row of a language model's step; 1 of any other model."""
        return self.sizes(chain).get(TOKENS, 1)

    def inputs(self, chain: Chain, examples: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The examples at this size.

        Args:
            examples: the chain's inputs, one microbatch at the largest extents.
        """
        sampling = chain.captured.sampling
        return tuple(examples) if sampling is None else cut(examples, sampling.input_dims, self.sizes(chain))


def grid_of(
    microbatches: Sequence[int], dim: str | None, extents: Sequence[int], positions: int | None = None
) -> list[MeasuredSize]:
    """Every microbatch with every extent of the dimension, both ascending.

    Args:
        positions: that a message has at most, if there is such a limit: the least microbatch is measured at every
            extent, others at those with which they have no more, the first one in any case.
    """
    if dim is None:
        return [MeasuredSize(microbatch=microbatch) for microbatch in microbatches]
    pairs = [
        (microbatch, extent)
        for microbatch in microbatches
        for extent in extents
        if positions is None
        or microbatch == microbatches[0]
        or extent == extents[0]
        or microbatch * extent <= positions
    ]
    return [MeasuredSize(microbatch=microbatch, extents={dim: extent}) for microbatch, extent in pairs]


def chain_at(chain: Chain, examples: Sequence[torch.Tensor], size: MeasuredSize) -> Chain:
    """The same units with the activations of this size. The graph has its numbers from then on."""
    captured = chain.captured
    if captured.sampling is None:
        return chain
    captured.sampling.propagate_at(captured.graph_module, examples, size.sizes(chain))
    return at_sizes(chain, size.sizes(chain))
