"""profile_device(): the main path of edgeprofile, from a config to a profile of this device."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

import edgecompile
from edgecompile.config.domain import Device, ModelSpec, cluster_of, imports_of, model_of, with_pixels
from edgecompile.config.schema import Conf
from edgecompile.contract.errors import UserError, choices
from edgecompile.contract.quantities import format_time, parse_bytes, parse_time
from edgecompile.execution.allocator import keep_freed_memory
from edgecompile.execution.libraries import import_libraries
from edgecompile.frontend.capture.trace import FlatModel
from edgecompile.frontend.chain.build_chain import chain_of
from edgecompile.frontend.chain.fingerprint import chain_fingerprint
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs
from edgecompile.measure.busy import busy_cores
from edgecompile.measure.lazy import WithoutWeights
from edgecompile.measure.machine import available_cores, machine_info, measure_rates
from edgecompile.measure.messages import measure_messages
from edgecompile.measure.partial import PartialFile
from edgecompile.measure.rounds import Effort, Tell, measure_chain
from edgecompile.measure.solve import Solved, solve_units
from edgecompile.measure.wires import measure_wires
from edgecompile.models import build_model
from edgecompile.models.preparation import fill_meta
from edgecompile.profile import profile_file as file
from edgecompile.profile.measured import threads_of
from edgecompile.terminal.process import abrupt_interrupts

__all__ = ["Ui", "profile_device"]


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
    busy: int
    path: Path
    effort: Effort
    microbatches: tuple[int, ...]


def profile_device(conf: Conf, ui: Ui) -> tuple[file.DeviceProfile, Path]:
    """Measures the model's units on this machine and writes the profile; returns it and its path.

    Raises:
        UserError: the config, the model or the machine does not allow it. A stop keeps PATH.partial for the next start.
    """
    setup = _setup(conf)
    _set_threads(setup.threads)
    spec = with_pixels(model_of(conf.model), conf.data)
    import_libraries(imports_of(conf.runtime))
    with ui.step(f"build {spec.name} without its weights"), abrupt_interrupts():
        flat, golden = _flat_model(spec, conf)
    solved: list[file.MicrobatchProfile] = []
    partial: PartialFile | None = None
    fingerprint = ""
    for microbatch in setup.microbatches:
        examples = example_inputs(spec, golden, microbatch)
        with ui.step(f"capture at microbatch {microbatch}"), abrupt_interrupts():
            chain = chain_of(flat, spec, examples, conf)
        found = chain_fingerprint(chain, microbatch)
        if partial is None:
            fingerprint = found
            partial = PartialFile(Path(f"{setup.path}.partial"), _settings(setup, conf, fingerprint))
            if partial.resumed:
                ui.say(f"resuming from {setup.path}.partial")
            keep_freed_memory()
        elif found != fingerprint:
            raise UserError(
                f"profile.microbatches: at {microbatch} the model has other units than at {setup.microbatches[0]}: "
                "measure them one by one, into files of their own (profile.folder)"
            )
        try:
            with busy_cores(setup.busy), ui.rounds() as tell:
                spans, samples = measure_chain(chain, examples, setup.effort, partial, tell)
        except KeyboardInterrupt:
            _tell_measured(solved, microbatch, setup.path, ui)
            raise
        solved.append(_entry(microbatch, solve_units(chain, spans, samples, setup.threads)))
    assert partial is not None
    with ui.step("measure the machine, wire formats and messages"):
        profile = _profile(conf, setup, chain, fingerprint, solved)
    file.write_profile(profile, setup.path)
    partial.remove()
    return profile, setup.path


def _tell_measured(solved: list[file.MicrobatchProfile], stopped: int, path: Path, ui: Ui) -> None:
    """What is known when Ctrl-C comes, and where it is kept."""
    for item in solved:
        ui.say(f"microbatch {item.microbatch}: all units take {format_time(sum(item.wall_s))}, {item.rounds} rounds")
    ui.say(f"stopped at microbatch {stopped}: {path}.partial keeps the rounds; run the same command again to resume")


def _setup(conf: Conf) -> _Setup:
    wanted, cluster = conf.profile, cluster_of(conf)
    names = [device.name for device in cluster.devices]
    name = wanted.device or (names[0] if len(names) == 1 else None)
    if name is None:
        raise UserError(f"profile.device is missing: say which device this machine is: {choices(names)}")
    if name not in names:
        raise UserError(f"profile.device: no host has the device {name!r}: the devices here are {choices(names, name)}")
    device = next(item for item in cluster.devices if item.name == name)
    if device.profile_of != name:
        raise UserError(f"profile.device: {name} takes its times from {device.profile_of}: measure that one")
    if device.execution == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"profile.device: {name} computes on cuda, and torch {torch.__version__} finds no GPU here: run "
            f"edgeprofile on the board itself, or set devices.{name}.execution=cpu"
        )
    sizes = tuple(sorted(set(wanted.microbatches)))
    if not sizes or sizes[0] < 1:
        raise UserError(
            f"invalid value {wanted.microbatches} for profile.microbatches: expected a list of sizes of 1 or more"
        )
    if wanted.rounds < 1:
        raise UserError(f"invalid value {wanted.rounds} for profile.rounds: expected 1 or more")
    if not 0 <= wanted.busy_cores <= available_cores():
        raise UserError(
            f"invalid value {wanted.busy_cores} for profile.busy_cores: expected 0 to {available_cores()} here"
        )
    path = file.profile_path(wanted.folder, name, conf.model.name)
    file.check_profile_place(path)
    return _Setup(
        device=device,
        threads=threads_of(cluster, device, available_cores()),
        busy=wanted.busy_cores,
        path=path,
        effort=Effort(
            rounds=wanted.rounds,
            time_limit_s=parse_time(wanted.time_limit, "profile.time_limit"),
            max_bytes=parse_bytes(wanted.max_memory, "profile.max_memory"),
            seed=conf.seed,
            device=device.execution,
            prepack=conf.runtime.prepack,
        ),
        microbatches=sizes,
    )


def _set_threads(count: int) -> None:
    torch.set_num_threads(count)
    with suppress(RuntimeError):  # a second job of the same process: it is set already
        torch.set_num_interop_threads(1)


def _flat_model(spec: ModelSpec, conf: Conf) -> tuple[FlatModel, tuple[torch.Tensor, ...]]:
    with WithoutWeights():
        module = build_model(spec, conf.seed)
        fill_meta(module, spec.build["_target_"])
    pixels = (conf.data.mean, conf.data.std) if conf.data.pixels == "uint8" else None
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs, pixels)
    return flat, golden_inputs(spec, module, conf.seed)


def _settings(setup: _Setup, conf: Conf, fingerprint: str) -> dict[str, object]:
    """What must be the same for samples of two starts to belong together."""
    return {
        "fingerprint": fingerprint,
        "execution": setup.device.execution,
        "dtype": setup.device.dtype,
        "threads": setup.threads,
        "busy_cores": setup.busy,
        "max_bytes": setup.effort.max_bytes,
        "prepack": conf.runtime.prepack,
        "seed": conf.seed,
        "versions": [edgecompile.__version__, str(torch.__version__)],
        "machine": [platform.node(), available_cores()],
    }


def _entry(microbatch: int, solved: Solved) -> file.MicrobatchProfile:
    return file.MicrobatchProfile(
        microbatch=microbatch,
        rounds=solved.rounds,
        disturbed=solved.disturbed,
        call_s=solved.call_s,
        correction=solved.correction,
        checks=tuple(
            file.CheckEntry(units=check.units, measured_s=check.measured_s, predicted_s=check.predicted_s)
            for check in solved.checks
        ),
        wall_s=solved.wall_s,
        wall_q1_s=solved.wall_q1_s,
        wall_q3_s=solved.wall_q3_s,
        cpu_s=solved.cpu_s,
        activation_bytes=solved.activation_bytes,
    )


def _profile(
    conf: Conf, setup: _Setup, chain: Chain, fingerprint: str, solved: Sequence[file.MicrobatchProfile]
) -> file.DeviceProfile:
    execution = setup.device.execution
    with busy_cores(setup.busy):
        rates = measure_rates(execution)
        wires = measure_wires(chain, setup.microbatches[-1], execution)
    messages, runtime_bytes = measure_messages(setup.threads)
    return file.DeviceProfile(
        version=file.VERSION,
        device=setup.device.name,
        model=conf.model.name,
        fingerprint=fingerprint,
        execution=execution,
        dtype=setup.device.dtype,
        threads=setup.threads,
        busy_cores=setup.busy,
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        machine=machine_info(execution),
        versions=file.Versions(
            edgecompile=edgecompile.__version__, torch=str(torch.__version__), python=platform.python_version()
        ),
        rates=rates,
        runtime_bytes=runtime_bytes,
        messages=messages,
        wires=tuple(wires),
        units=tuple(unit.op for unit in chain.units),
        microbatches=tuple(solved),
        prepack=conf.runtime.prepack,
    )
