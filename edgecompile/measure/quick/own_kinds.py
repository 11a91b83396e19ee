"""profile=auto: finds profiles that fit a plan's kinds of device, and measures those kinds that are this machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgecompile
from edgecompile.config.cluster_spec import Device
from edgecompile.config.measure_request import MeasureRequest
from edgecompile.config.request import CompileRequest
from edgecompile.contract.closed_sets import WEIGHT_ONLY, Precision
from edgecompile.contract.dim_rules import BATCH
from edgecompile.contract.errors import UserError
from edgecompile.contract.text_rules import TOKENS
from edgecompile.execution.allocator import while_freed_memory_is_kept
from edgecompile.execution.low_precision import fast_here
from edgecompile.frontend.capture.dims import NotSymbolic
from edgecompile.frontend.chain.build_chain import with_limit
from edgecompile.frontend.chain.fingerprint import chain_fingerprint
from edgecompile.frontend.chain.sized_work import sized_work
from edgecompile.frontend.chain.units import Chain
from edgecompile.measure.device_figures import Surroundings, device_profile, solved_sizes
from edgecompile.measure.machine_costs.busy import busy_cores
from edgecompile.measure.machine_costs.machine import available_cores, machine_info, measure_rates
from edgecompile.measure.machine_costs.messages import measure_messages
from edgecompile.measure.machine_costs.wires import measure_wires
from edgecompile.measure.quick.quick_sizes import QuickSizes, WorkAt, choose_sizes, grids_of
from edgecompile.measure.quick.this_machine import busy_beside, is_here
from edgecompile.measure.rounds import Effort, Measured, measure_chain, spans_of
from edgecompile.measure.sizes import MeasuredSize, chain_at
from edgecompile.profile.kept_profiles import AskedSizes, ProfileCache, kept_folder
from edgecompile.profile.profile_file import Messages, Rates, read_profile, write_profile
from edgecompile.profile.profile_fit import check_fit, given_path, measured_precisions, threads_of, usual_path

__all__ = ["OwnKinds", "own_kinds"]

_ROUNDS = 15
_MAX_BYTES = 1 << 30
_MEMORY_SHARE = 8
"""Or this part of the machine's memory, if that is less."""
_LEAST_S = 2.0
"""For the units, whatever the machine's own figures have taken."""

_MESSAGES_S = 60.0
_OF_THE_MODEL = (RuntimeError, LookupError, TypeError, ValueError, AssertionError)
"""Raised by operators that insist on values which random tensors do not have."""

Step = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True, kw_only=True)
class OwnKinds:
    """The profiles that were found or made, and what the plan should say of others."""

    measured: Mapping[tuple[str, Precision], Path]
    notes: tuple[str, ...] = ()


def own_kinds(
    request: CompileRequest, chain: Chain, examples: Sequence[torch.Tensor], lengths: Sequence[int], step: Step
) -> OwnKinds:
    """Looks at each kind in each precision that it may compute in.

    Args:
        chain: of as many items as the plan may have in a message, or more.
        examples: its inputs, as many items, at the largest extents.
        lengths: extents of the workload's items; empty: nothing is known of them, or they do not vary.

    Raises:
        UserError: a file that the user named is not there, or is not a profile.
    """
    search = _Search(request, chain, examples, lengths, step)
    for device in request.cluster.devices:
        for precision in _precisions(device, request):
            search.look(replace(device, precision=precision, auto=False))
    return OwnKinds(measured=search.measured, notes=tuple(search.notes))


def _precisions(device: Device, request: CompileRequest) -> tuple[Precision, ...]:
    """Of a kind whose precision is to be chosen: those that are fast here, or have a file."""
    if not device.auto:
        return (device.precision,)
    found = measured_precisions(device, request.profile)
    if not is_here(device, request.cluster) or given_path(device, request.profile) is not None:
        return found
    own = (item for item in Precision if fast_here(item) and (request.generation or item not in WEIGHT_ONLY))
    return tuple(dict.fromkeys((*found, *own)))


class _Search:
    def __init__(
        self, request: CompileRequest, chain: Chain, examples: Sequence[torch.Tensor], lengths: Sequence[int],
        step: Step,
    ) -> None:  # fmt: skip
        self._request, self._chain, self._examples, self._step = request, chain, examples, step
        self._lengths = lengths
        self._fingerprint = chain_fingerprint(chain, len(examples[0]))
        self.measured: dict[tuple[str, Precision], Path] = {}
        self.notes: list[str] = []

    def look(self, device: Device) -> None:
        path = given_path(device, self._request.profile) or self._edgeprofiles(device)
        if path is None and self._request.profile.quick_s and is_here(device, self._request.cluster):
            path = self._own(device)
        if path is not None:
            self.measured[device.name, device.precision] = path

    def _edgeprofiles(self, device: Device) -> Path | None:
        """A file in profile.folder, if it fits."""
        path = usual_path(device, self._request.profile)
        if not path.exists():
            return None
        try:
            self._check(path, device)
        except UserError as reason:
            self.notes.append(f"times of {device.name} are not from a profile that does not fit: {reason}")
            return None
        return path

    def _check(self, path: Path, device: Device) -> None:
        request = self._request
        check_fit(read_profile(path), path, device, request.cluster, request.profile, self._fingerprint, self._chain)

    def _own(self, device: Device) -> Path | None:
        """The user's own profile of this machine, measured now where there is none."""
        try:
            measuring = _Measuring(self._request, device, self._chain, self._examples, self._lengths, self._fingerprint)
            path = measuring.cache.find(measuring.asked)
            if path is None:
                label = (
                    device.name if device.precision is Precision.FP32 else f"{device.name} in {device.precision.value}"
                )
                with self._step(f"measure {label} here (profile=auto, about {self._request.profile.quick_s:g} s)"):
                    path = measuring.measured()
            if path is not None:
                self._check(path, device)
                return path
            reason = f"one item alone takes too long for profile.quick={self._request.profile.quick_s:g}s"
        except (UserError, NotSymbolic, OSError) as error:
            reason = str(error)
        except _OF_THE_MODEL as error:  # a plan needs no measurement, and edgeprofile shows where it came from
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        self.notes.append(f"{device.name} is this machine, but was not measured: {reason}")
        return None


class _Measuring:
    """Measures one kind of device in one precision."""

    def __init__(
        self, request: CompileRequest, device: Device, chain: Chain, examples: Sequence[torch.Tensor],
        lengths: Sequence[int], fingerprint: str,
    ) -> None:  # fmt: skip
        self._request, self._device, self._chain, self._examples = request, device, chain, examples
        self._fingerprint, cores = fingerprint, available_cores()
        self._threads = threads_of(request.cluster, device, cores)
        self._busy = busy_beside(request.cluster, cores, self._threads)
        self._dim = _dim(chain)
        self._max_bytes = min(_MAX_BYTES, machine_info("cpu").memory_bytes // _MEMORY_SHARE)
        self.asked = _asked(request, chain, self._dim, len(examples[0]), lengths)
        self.cache = ProfileCache(
            kept_folder(), f"{device.profile_of}-{request.model.spec.name}-{device.precision.value}", self._settings()
        )

    def _settings(self) -> dict[str, Any]:
        device, machine = self._device, machine_info(self._device.execution.value)
        return {
            "fingerprint": self._fingerprint,
            "execution": [device.execution.value, device.dtype, device.precision.value, self._threads, self._busy],
            "keep": list(self._request.precision.keep),
            "prepack": self._request.profile.prepack.value,
            "context": self._request.model.spec.usual_context,
            "cache": self._request.model.spec.cache.value,
            "varies": self._chain.captured.sampling is not None,
            "quick_s": self._request.profile.quick_s,
            "versions": [edgecompile.__version__, str(torch.__version__), platform.python_version()],
            "machine": [machine.processor, machine.cores, machine.memory_bytes],
        }

    def measured(self) -> Path | None:
        """None where not even the least can be measured in time."""
        begin_s, quick_s = time.monotonic(), self._request.profile.quick_s
        with _one_process(self._threads):
            messages, runtime_bytes = self._messages()
            with busy_cores(self._busy):
                rates = measure_rates(self._device.execution.value)
                left_s = max(_LEAST_S, quick_s - (time.monotonic() - begin_s))
                sizes = self._sizes(rates, left_s)
                if sizes is None:
                    return None
                wires = measure_wires(self._chain, len(self._examples[0]), self._device.execution.value)
                around = Surroundings(rates=rates, wires=tuple(wires), messages=messages, runtime_bytes=runtime_bytes)
                path = self._write(sizes, around, max(_LEAST_S, quick_s - (time.monotonic() - begin_s)))
        return path

    def _messages(self) -> tuple[Messages, int]:
        """As they were measured before on this machine, or now."""
        for found in self.cache.others():
            versions, machine = found.versions, found.machine
            same = (versions.edgecompile, versions.torch, machine.processor, machine.cores, found.threads)
            if same == (edgecompile.__version__, str(torch.__version__), *_processor(), self._threads):
                return found.messages, found.runtime_bytes
        return measure_messages(self._threads, _MESSAGES_S)

    def _sizes(self, rates: Rates, limit_s: float) -> QuickSizes | None:
        spans = spans_of(self._chain, self._max_bytes, self._request.model.seed, entire=True)
        return choose_sizes(self._grids(), self._work(), spans, rates, limit_s)

    def _grids(self) -> Iterable[tuple[MeasuredSize, ...]]:
        captured = self._chain.captured
        if captured.sampling is None:
            return [(MeasuredSize(microbatch=len(self._examples[0])),)]
        return grids_of(self.asked, self._dim, captured.dims[TOKENS].max if self._request.generation else None)

    def _work(self) -> WorkAt:
        chain = self._chain
        if chain.captured.sampling is None:
            flops, moved = (
                np.array([getattr(unit, key) for unit in chain.units], dtype=float) for key in ("flops", "moved_bytes")
            )
            return lambda size: (flops, moved)
        work = sized_work(chain, self._examples, self._dim)

        def at(size: MeasuredSize) -> Any:
            extent = next(iter(size.extents.values()), 1)
            return work.flops_at(size.microbatch, extent), work.moved_bytes_at(size.microbatch, extent)

        return at

    def _write(self, chosen: QuickSizes, around: Surroundings, limit_s: float) -> Path:
        chain, request = self._chain, self._request
        examples = tuple(value[: chosen.microbatch] for value in self._examples)
        varies = chain.captured.sampling is not None
        fewer = varies and chosen.microbatch < len(self._examples[0])
        if fewer:
            chain = with_limit(chain, examples)
        microbatches = len({size.microbatch for size in chosen.sizes})
        effort = Effort(
            rounds=_ROUNDS, time_limit_s=limit_s / 2 / microbatches, max_bytes=self._max_bytes, seed=request.model.seed,
            device=self._device.execution.value, prepack=request.profile.prepack.value,
            precision=self._device.precision, keep=request.precision.keep, vary=varies, entire=chosen.entire,
        )  # fmt: skip
        solved = None
        try:
            spans, found = measure_chain(chain, examples, chosen.sizes, effort, _Unkept(), lambda *_: None)
            solved = solved_sizes(chain, examples, spans, found, chosen.sizes, self._threads)
        finally:
            if fewer:  # the graph has the numbers of these again
                with_limit(chain, self._examples)
            elif varies and solved is None:
                chain_at(chain, self._examples, MeasuredSize(microbatch=len(self._examples[0])))
        path = self.cache.path(self.asked)
        profile = device_profile(self._as_measure(chosen), self._threads, chain, self._fingerprint, solved, around)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_profile(profile, path)
        return path

    def _as_measure(self, chosen: QuickSizes) -> MeasureRequest:
        request = self._request
        return MeasureRequest(
            model=request.model, capture=request.capture, cluster=request.cluster,
            device=replace(self._device, name=self._device.profile_of), folder=str(self.cache.folder),
            microbatches=tuple(sorted({size.microbatch for size in chosen.sizes})), dim=self._dim, extents=(),
            named_extents=False, rounds=_ROUNDS, time_limit_s=request.profile.quick_s, max_bytes=self._max_bytes,
            busy_cores=self._busy, prepack=request.profile.prepack, keep=request.precision.keep,
            candidates=0 if request.generation is None else request.generation.candidates,
        )  # fmt: skip


def _dim(chain: Chain) -> str | None:
    """The one dimension beside the batch that varies; None: there is none, or more than one."""
    extents = [name for name in chain.captured.dims if name != BATCH]
    return extents[0] if len(extents) == 1 else None


def _asked(
    request: CompileRequest, chain: Chain, dim: str | None, microbatch: int, lengths: Sequence[int]
) -> AskedSizes:
    """Extents in whole powers of two, so that another workload of like items finds the profile too."""
    if dim is None:
        return AskedSizes(microbatch=microbatch, least=0, most=0)
    own = chain.captured.dims[dim]
    if request.generation is not None:
        return AskedSizes(microbatch=microbatch, least=own.min, most=own.max)
    if not lengths:
        return AskedSizes(microbatch=microbatch, least=own.max, most=own.max)
    least, most = 1 << (min(lengths).bit_length() - 1), 1 << (max(lengths) - 1).bit_length()
    return AskedSizes(microbatch=microbatch, least=max(own.min, least), most=min(own.max, most))


def _processor() -> tuple[str, int]:
    machine = machine_info("cpu")
    return machine.processor, machine.cores


class _Unkept:
    """A measurement that takes seconds is not resumed."""

    def measured(self, key: str) -> dict[str, Measured]:
        return {}

    def is_complete(self, key: str) -> bool:
        return False

    def keep(self, found: object, *, complete: bool) -> None:
        pass


@contextmanager
def _one_process(threads: int) -> Iterator[None]:
    """As a rank computes: its threads, its way with memory. Random numbers and threads are as before afterwards."""
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), while_freed_memory_is_kept():
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
