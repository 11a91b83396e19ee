"""The costs that a plan is made with: of one message, or of the mix of messages that the workload becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from edgecompile.config.request import CompileRequest
from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.plan import DataSpec
from edgecompile.execution.batching import Limits
from edgecompile.frontend.chain.sized_work import SizedWork, sized_work
from edgecompile.frontend.chain.units import Chain
from edgecompile.profile.analytic import Products, Profile
from edgecompile.profile.measured import SizedMessages, make_profile
from edgecompile.profile.mix import Mix, mix_of, mixed_profile
from edgecompile.profile.text_lengths import text_lengths
from edgecompile.profile.text_mix import text_mix

__all__ = ["costs_of", "workload_extents", "workload_mix"]


def costs_of(
    request: CompileRequest, chain: Chain, examples: Sequence[torch.Tensor], mix: Mix | None,
    work: SizedWork | None = None,
) -> Profile:  # fmt: skip
    """What units and boundaries cost on each kind of device, of the mix's mean message where there is a mix.

    Args:
        work: of the chain, where it was counted before.

    Raises:
        UserError: profile=measured, and a kind has no profile that holds for it.
    """
    dims = chain.captured.dims
    extents = [name for name in dims if name != BATCH]
    if len(extents) != 1 or (mix is None and request.profile.by_data_sheet):
        return make_profile(chain, request.cluster, request.profile)
    (dim,) = extents
    work = work or sized_work(chain, examples, dim)
    largest: tuple[tuple[int, int], ...] = ((request.microbatch, dims[dim].max),)
    if request.generation is not None:  # no message of text has more tokens than a chunk, or more than a few rows
        largest = (1, dims[dim].max), (request.microbatch, dims[dim].min)
    messages = SizedMessages(
        work=work, shares=dict.fromkeys(largest, 1 / len(largest)) if mix is None else mix.counted, largest=largest,
        contexts={} if mix is None else mix.contexts,
    )  # fmt: skip
    profile = make_profile(chain, request.cluster, request.profile, messages)
    if mix is None:
        return profile
    return mixed_profile(
        profile, work, mix, request.cluster.devices, Products.of(chain, request.profile.keep, request.cluster.devices)
    )


def workload_extents(request: CompileRequest, chain: Chain, data: DataSpec) -> tuple[int, ...]:
    """Of a stream of the workload's items; empty where sizes do not vary, or nothing is known of the items.

    Raises:
        UserError: the workload is a file of texts that cannot be read as such.
    """
    dims, asked = chain.captured.dims, request.workload
    if asked is None or set(dims) != {BATCH, asked.dim}:
        return ()
    if asked.texts is None:
        return asked.extents
    return text_lengths(asked.texts, data.text, request.folder, dims[asked.dim])


def workload_mix(request: CompileRequest, chain: Chain, data: DataSpec, padding: Mapping[str, float]) -> Mix | None:
    """The messages of the workload's items; None where sizes do not vary, or nothing is known of the items.

    Args:
        padding: as in ModelInfo.

    Raises:
        UserError: the workload is a file of texts that cannot be read as such.
    """
    dims, asked, runtime = chain.captured.dims, request.workload, request.runtime
    if request.generation is not None:
        return text_mix(request.generation, dims, len(request.cluster.hosts))
    extents = workload_extents(request, chain, data)
    if asked is None or not extents:
        return None
    limits = Limits(request.microbatch, runtime.batch_tokens, (bool(padding),))
    return mix_of(asked.source, extents, asked.dim, dims, limits, runtime.window * request.microbatch)
