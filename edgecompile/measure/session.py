"""profile_device(): the main path of edgeprofile, from a config to a profile of this device."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import edgecompile
from edgecompile.config.cluster_spec import Device
from edgecompile.config.measure_request import MeasureRequest
from edgecompile.config.request import CaptureRequest, ModelRequest
from edgecompile.contract.closed_sets import WEIGHT_ONLY, Execution, Precision
from edgecompile.contract.errors import UserError, invalid_value
from edgecompile.contract.quantities import format_time
from edgecompile.contract.text_rules import TOKENS
from edgecompile.execution.allocator import keep_freed_memory
from edgecompile.execution.low_precision import fast_here
from edgecompile.frontend.capture.dims import NotSymbolic
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.chain.build_chain import chain_of
from edgecompile.frontend.chain.fingerprint import chain_fingerprint
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs
from edgecompile.measure.device_figures import device_profile, measure_surroundings, solved_sizes
from edgecompile.measure.lazy import WithoutWeights
from edgecompile.measure.machine_costs.busy import busy_cores
from edgecompile.measure.machine_costs.machine import available_cores
from edgecompile.measure.partial import PartialFile
from edgecompile.measure.rounds import Effort, Tell, measure_chain, told
from edgecompile.measure.sizes import MeasuredSize, grid_of
from edgecompile.models import build_model
from edgecompile.models.preparation import fill_meta
from edgecompile.profile import profile_file as file
from edgecompile.profile.profile_fit import threads_of
from edgecompile.terminal.libraries import import_libraries
from edgecompile.terminal.process import abrupt_interrupts

__all__ = ["Ui", "in_precisions", "profile_device"]


@dataclass(frozen=True)
class Ui:
    """What edgeprofile says while it works."""

    step: Callable[[str], AbstractContextManager[object]]
    rounds: Callable[[], AbstractContextManager[Tell]]
    say: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """What all measurements of one profile have in common."""

    device: Device
    threads: int
    path: Path
    effort: Effort


def in_precisions(request: MeasureRequest) -> tuple[MeasureRequest, ...]:
    """The request for each precision that is to be measured: with `auto` float32, and those with kernels here."""
    device = request.device
    if not device.auto:
        return (request,)
    if device.execution is Execution.CUDA:
        found: list[Precision] = [Precision.FP32, Precision.BF16, Precision.FP16]
    else:
        generates = bool(request.model.spec.usual_context)  # others have many rows for each weight
        found = [item for item in Precision if fast_here(item) and (generates or item not in WEIGHT_ONLY)]
    return tuple(replace(request, device=replace(device, precision=item, auto=False)) for item in found)


def profile_device(request: MeasureRequest, ui: Ui) -> tuple[file.DeviceProfile, Path]:
    """Measures the model's units on this machine and writes the profile; returns it and its path.

    Raises:
        UserError: the config, the model or the machine does not allow it. A stop keeps PATH.partial for the next start.
    """
    setup = _setup(request)
    _set_threads(setup.threads)
    spec = request.model.spec
    import_libraries(request.model.imports)
    with ui.step(f"build {spec.name} without its weights"), abrupt_interrupts():
        flat, golden = _flat_model(request.model)
    measuring = _Measuring(request, setup, ui, flat, golden)
    chain = measuring.all_sizes() if spec.dims else None
    if chain is None:
        chain = measuring.one_by_one()
    with ui.step("measure the machine, wire formats and messages"):
        around = measure_surroundings(request, setup.threads, chain)
        profile = device_profile(request, setup.threads, chain, measuring.fingerprint, measuring.solved, around)
    file.write_profile(profile, setup.path)
    measuring.done()
    return profile, setup.path


class _Measuring:
    """Measures the model at one size after the other, or at all of them in turns where its sizes vary."""

    def __init__(
        self, request: MeasureRequest, setup: _Setup, ui: Ui, flat: FlatModel, golden: Sequence[torch.Tensor]
    ) -> None:
        self._request, self._setup, self._ui = request, setup, ui
        self._flat, self._golden = flat, golden
        self._partial: PartialFile | None = None
        self.fingerprint = ""
        self.solved: list[file.MicrobatchProfile] = []

    def all_sizes(self) -> Chain | None:
        """Each microbatch with each extent; None where the model's shapes turn out to be fixed, after saying why."""
        request = self._request
        chain, examples = self._captured(request.microbatches[-1], request.capture)
        why = chain.captured.why_fixed
        if not why:
            self.fingerprint = chain_fingerprint(chain, request.microbatches[-1])
            try:
                self._measure(chain, examples, self._grid(), vary=True)
            except NotSymbolic as reason:
                why = str(reason)
                self.fingerprint = ""
            else:
                return chain
        if request.named_extents:
            raise UserError(f"the model is measured at its largest extents alone ({why})", key="profile.extents",
                            fix="leave it out")  # fmt: skip
        self._ui.say(f"measured at the largest extents alone: {why}")
        return None

    def _grid(self) -> list[MeasuredSize]:
        """Of a language model no message has more tokens than its largest chunk, whatever the number of rows."""
        request = self._request
        spec = request.model.spec
        most = spec.dims[TOKENS].max if spec.usual_context and request.dim == TOKENS else None
        return grid_of(request.microbatches, request.dim, request.extents, most)

    def one_by_one(self) -> Chain:
        """Each microbatch, at the largest extents."""
        request = self._request
        for microbatch in request.microbatches:
            chain, examples = self._captured(microbatch, request.capture)
            self._check_alike(chain_fingerprint(chain, microbatch), microbatch)
            self._measure(chain, examples, [MeasuredSize(microbatch=microbatch)], vary=False)
        return chain

    def done(self) -> None:
        if self._partial is not None:
            self._partial.remove()

    def _captured(self, microbatch: int, capture: CaptureRequest) -> tuple[Chain, tuple[torch.Tensor, ...]]:
        spec = self._request.model.spec
        examples = example_inputs(spec, self._golden, microbatch)
        with self._ui.step(f"capture at microbatch {microbatch}"), abrupt_interrupts():
            return chain_of(self._flat, spec, examples, capture), examples

    def _check_alike(self, found: str, microbatch: int) -> None:
        """Raises UserError where another microbatch, which was looked at before, has other units."""
        if self.fingerprint not in ("", found):
            raise UserError(
                f"profile.microbatches: at {microbatch} the model has other units than at "
                f"{self._request.microbatches[0]}: measure them one by one, into files of their own (profile.folder)"
            )
        self.fingerprint = found

    def _measure(
        self, chain: Chain, examples: Sequence[torch.Tensor], sizes: Sequence[MeasuredSize], *, vary: bool
    ) -> None:
        request, setup, ui = self._request, self._setup, self._ui
        if self._partial is None:
            self._partial = PartialFile(Path(f"{setup.path}.partial"), _settings(setup, request, self.fingerprint))
            if self._partial.resumed:
                ui.say(f"resuming from {setup.path}.partial")
            keep_freed_memory()
        effort = replace(setup.effort, vary=vary)
        try:
            with busy_cores(request.busy_cores), ui.rounds() as tell:
                spans, found = measure_chain(chain, examples, sizes, effort, self._partial, tell)
        except KeyboardInterrupt:
            _tell_measured(self.solved, told(sizes), setup.path, ui)
            raise
        self.solved += solved_sizes(chain, examples, spans, found, sizes, setup.threads)


def _tell_measured(solved: list[file.MicrobatchProfile], stopped: str, path: Path, ui: Ui) -> None:
    """What is known when Ctrl-C comes, and where it is kept."""
    for item in solved:
        ui.say(f"microbatch {item.microbatch}: all units take {format_time(sum(item.wall_s))}, {item.rounds} rounds")
    ui.say(f"stopped at {stopped}: {path}.partial keeps the rounds; run the same command again to resume")


def _setup(request: MeasureRequest) -> _Setup:
    device, cores = request.device, available_cores()
    if device.execution is Execution.CUDA and not torch.cuda.is_available():
        raise UserError(
            f"profile.device: {device.name} computes on cuda, and torch {torch.__version__} finds no GPU here: run "
            f"edgeprofile on the board itself, or set devices.{device.name}.execution=cpu"
        )
    if request.busy_cores > cores:
        raise invalid_value(request.busy_cores, "profile.busy_cores", f"0 to {cores}, the cores of this machine")
    path = file.profile_path(request.folder, device.name, request.model.spec.name, device.precision.value)
    file.check_profile_place(path)
    return _Setup(
        device=device,
        threads=threads_of(request.cluster, device, cores),
        path=path,
        effort=Effort(
            rounds=request.rounds,
            time_limit_s=request.time_limit_s,
            max_bytes=request.max_bytes,
            seed=request.model.seed,
            device=device.execution.value,
            prepack=request.prepack.value,
            precision=device.precision,
            keep=request.keep,
        ),
    )


def _set_threads(count: int) -> None:
    torch.set_num_threads(count)
    with suppress(RuntimeError):  # a second job of the same process: it is set already
        torch.set_num_interop_threads(1)


def _flat_model(model: ModelRequest) -> tuple[FlatModel, tuple[torch.Tensor, ...]]:
    spec = model.spec
    with WithoutWeights():
        module = build_model(spec, model.seed)
        fill_meta(module, spec.build["_target_"])
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs, model.pixels)
    return flat, golden_inputs(spec, module, model.seed)


def _settings(setup: _Setup, request: MeasureRequest, fingerprint: str) -> dict[str, object]:
    """What must be the same for samples of two starts to belong together."""
    return {
        "fingerprint": fingerprint,
        "execution": setup.device.execution.value,
        "dtype": setup.device.dtype,
        "threads": setup.threads,
        "busy_cores": request.busy_cores,
        "max_bytes": setup.effort.max_bytes,
        "prepack": request.prepack.value,
        "precision": [setup.device.precision.value, *request.keep],
        "seed": request.model.seed,
        "context": request.model.spec.usual_context,
        "cache": request.model.spec.cache.value,
        "versions": [edgecompile.__version__, str(torch.__version__)],
        "machine": [platform.node(), available_cores()],
    }
