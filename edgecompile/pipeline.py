"""compile_model(): the main path of the compiler, one call per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from torch import nn

from edgecompile.artifacts.assemble import Compiled, assemble_plan
from edgecompile.artifacts.compiled_stage import (
    CompiledPipeline,
    StageDesign,
    StageWriter,
    design_stages,
    stage_artifacts,
    unwritten,
    usable_artifacts,
)
from edgecompile.artifacts.data_files import NO_GOLDEN, check_labels, data_spec, write_golden
from edgecompile.artifacts.equality import Equality, Flow, check_other_sizes, check_shards
from edgecompile.artifacts.fallbacks import (
    CompiledFallback,
    Contingencies,
    check_fallbacks,
    unwritten_fallbacks,
    write_fallbacks,
)
from edgecompile.artifacts.shards import check_exported, write_reference
from edgecompile.artifacts.wire_loss import is_lossy
from edgecompile.config.methods import ProfileMethod, UnusedWeights
from edgecompile.config.model_spec import ModelSpec
from edgecompile.config.readiness import planning_notes
from edgecompile.config.request import Asked, CompileRequest, request_of
from edgecompile.contract.closed_sets import Artifact, Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Accuracy, DataSpec, Plan
from edgecompile.contract.plan_file import check_place, write_plan
from edgecompile.frontend.capture.dims import NotSymbolic
from edgecompile.frontend.capture.export_graph import libraries_of, library_notes
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.chain.build_chain import chain_of, sized_chain_of, with_limit
from edgecompile.frontend.chain.kept_state import keeps_bf16
from edgecompile.frontend.chain.products import check_kept
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.eager import Batch
from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs
from edgecompile.frontend.golden.independence import ItemsMixed
from edgecompile.frontend.golden.other_sizes import OtherSizes, other_sizes, padding_of, size_notes
from edgecompile.generation.plan_text import plan_text
from edgecompile.measure.quick.own_kinds import own_kinds
from edgecompile.models import build_model
from edgecompile.models.causal_step import check_state
from edgecompile.models.given_module import copy_of
from edgecompile.models.mapped_memory import MappedMemory
from edgecompile.models.preparation import fill_meta
from edgecompile.models.weights import Loaded, check_numbers, load_weights
from edgecompile.partition.auto_microbatch import CANDIDATES, MicrobatchChoice, at_microbatch, choose_microbatch
from edgecompile.planning.problem import Schedule
from edgecompile.precision.auto_precision import Planned, choices_of, choose_precision, plan_with, with_precisions
from edgecompile.precision.judged import Judged
from edgecompile.profile.mix import Mix
from edgecompile.profile.workload import costs_of, workload_extents, workload_mix
from edgecompile.terminal.libraries import import_libraries
from edgecompile.terminal.process import abrupt_interrupts
from edgecompile.wire.exact_tensors import keep_exact
from edgecompile.wire.formats import cut_formats

__all__ = ["Step", "compile_model"]

Step = Callable[[str], AbstractContextManager[object]]
"""Reports progress while its context is open."""


def compile_model(
    asked: Asked, step: Step, overrides: Sequence[str] = (), module: nn.Module | None = None
) -> Plan:  # fmt: skip
    """Compiles the model for the cluster; writes shards, golden items and then plan.yaml below the request's folder.

    Args:
        asked: a request, or the composed config that it is made of.
        overrides: what the config was asked for; the plan keeps them.
        module: the model, where a program has it in hand; a copy is compiled. None: what the config builds.

    Raises:
        UserError: the config, the model, a file or the cluster does not allow it; nothing but unnamed shards is left.
    """
    request = request_of(asked)
    check_place(request.folder / "plan.yaml")
    import_libraries(request.model.imports)
    artifact, notes = usable_artifacts(request.artifact)
    request = replace(request, artifact=artifact)
    try:
        return _compiled(request, step, overrides, notes, module)
    except ItemsMixed as mixed:
        if not request.auto_microbatch:
            raise
        alone = f"microbatch=auto took 1: {mixed.what}"
    return _compiled(at_microbatch(request, 1), step, overrides, (*notes, alone), module)


def _compiled(
    request: CompileRequest, step: Step, overrides: Sequence[str], notes: tuple[str, ...], module: nn.Module | None
) -> Plan:
    with MappedMemory(request.folder) as memory:
        return _compiled_in(memory, request, step, overrides, notes, module)


def _compiled_in(
    memory: MappedMemory, request: CompileRequest, step: Step, overrides: Sequence[str], notes: tuple[str, ...],
    module: nn.Module | None,
) -> Plan:  # fmt: skip
    spec, folder = request.model.spec, request.folder
    with step(f"build {spec.name}"), abrupt_interrupts():
        loaded = _model(request, memory, module)
        check_state(loaded.module)
        flat = FlatModel(loaded.module, [item.name for item in spec.inputs], spec.outputs, request.model.pixels)
        golden = golden_inputs(spec, loaded.module, request.model.seed)
    settled = _settled(request, flat, golden, step)
    with step("capture"), abrupt_interrupts():
        request, microbatch = settled.request, settled.request.microbatch
        examples = example_inputs(spec, golden, microbatch)
        whole, sized = _captured(flat, spec, examples, golden, settled)
        chain = keep_exact(whole, golden, microbatch, request.wire.may_lose)
        check_kept(chain, request.precision.keep)
        request = _with_libraries(request, chain)
        data = data_spec(request.data, chain.captured.output_names, request.weights.file, folder)
        check_labels(data, chain.boundaries[-1])
    request, own_notes = _with_profiles(request, chain, examples, data, step)
    judged = Judged(request, flat, golden, chain, data, loaded.origin, sized.padding, step)
    calibrated = judged.calibrate() if _may_be_int8(request) else ()
    planned = _planned(request, chain, examples, workload_mix(request, chain, data, sized.padding), judged, step)
    request = planned.request
    if request.artifact.format is Artifact.NONE:
        made = _without_shards(planned, chain, judged)
    else:
        made = _with_shards(planned, chain, judged, sized, memory, step)
    text = plan_text(planned, loaded.module, chain, examples, made.writer, made.pipeline.stages, step)
    with step("write the plan"):
        graph, used = chain.captured.graph_module.graph, {0, *(stage.host for stage in planned.schedule.stages)}
        unsplit = write_reference(flat, chain, examples, folder / "golden") if request.reference else None
        compiled = Compiled(
            chain=chain, pipeline=made.pipeline, fallbacks=made.fallbacks, data=data, weights=loaded.origin,
            golden=NO_GOLDEN if made.equality is None else
            write_golden(judged.reference, chain.captured, made.equality, unsplit, folder),
            num_parameters=sum(value.numel() for value in loaded.module.parameters()),
            padding=sized.padding, mix=planned.mix, accuracy=made.accuracy, generation=text.generation,
            notes=(*notes, *loaded.notes, *settled.notes, *own_notes, *size_notes(spec, chain.captured, sized),
                   *judged.reference.notes, *library_notes(graph, request.model.imports), *made.equality_notes,
                   *planned.notes, *calibrated, *made.notes, *text.notes, *planned.profile.notes,
                   *planning_notes(request.cluster, used), *planned.contingencies.notes),
        )  # fmt: skip
        plan = assemble_plan(request, planned.inputs, compiled, overrides)
        write_plan(plan, folder / "plan.yaml")
    return plan


def _with_libraries(request: CompileRequest, chain: Chain) -> CompileRequest:
    """The modules that ranks import, where the config names none."""
    libraries = request.model.imports or libraries_of(chain.captured.graph_module.graph)
    return replace(request, model=replace(request.model, imports=libraries),
                   runtime=replace(request.runtime, imports=libraries))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Made:
    """The stages of the plan and of its fallbacks, with what comparing their shards with the model has shown."""

    pipeline: CompiledPipeline
    fallbacks: tuple[CompiledFallback, ...]
    writer: StageWriter | None = None
    """None, as equality and accuracy: there are no shards."""
    equality: Equality | None = None
    accuracy: Accuracy | None = None
    notes: tuple[str, ...] = ()

    @property
    def equality_notes(self) -> tuple[str, ...]:
        return () if self.equality is None else self.equality.notes


def _with_shards(
    planned: Planned, chain: Chain, judged: Judged, sized: OtherSizes, memory: MappedMemory, step: Step
) -> _Made:
    request, reference, designs = planned.request, judged.reference, _designs(planned)
    lossy = is_lossy(chain, designs)
    start = Flow.of(reference, request.microbatch, lossy, sized.items, in_bf16=keeps_bf16(chain))
    writer = StageWriter.of(chain, request, memory)
    pipeline = _write_stages(writer, planned.schedule, designs, start, step)
    fallbacks = _write_fallbacks(writer, planned.contingencies, request, start, step)
    with step("compare the shards with the eager model"):
        microbatch, most = request.microbatch, request.wire.max_error
        equality = check_shards(chain, pipeline.stages, pipeline.outputs, reference, microbatch, most)
        check_other_sizes(chain, pipeline, sized.items, equality)
        equality = check_fallbacks(fallbacks, chain, reference, microbatch, most, equality, sized.items)
    precise = judged.precise(request, writer, (pipeline, *(item.pipeline for item in fallbacks)))
    return _Made(pipeline=pipeline, fallbacks=fallbacks, writer=writer, equality=equality,
                 accuracy=precise.accuracy, notes=precise.notes)  # fmt: skip


def _without_shards(planned: Planned, chain: Chain, judged: Judged) -> _Made:
    """The same plan, of a model that was looked at as closely, and nothing to run."""
    assert judged.reference is not None  # which refuses what no plan is made of, and what items may not share
    note = "artifact=none: no shards were written, so the plan cannot run, and nothing was compared with the model"
    return _Made(
        pipeline=unwritten(planned.schedule, _designs(planned)),
        fallbacks=unwritten_fallbacks(planned.contingencies.fallbacks, chain, planned.request),
        notes=(note,),
    )


def _may_be_int8(request: CompileRequest) -> bool:
    return any(device.auto or device.precision is Precision.INT8 for device in request.cluster.devices)


def _planned(
    request: CompileRequest, chain: Chain, examples: Batch, mix: Mix | None, judged: Judged, step: Step
) -> Planned:
    """The schedule; where precisions are to be chosen, with them."""
    if any(device.auto for device in request.cluster.devices):
        return choose_precision(request, chain, examples, mix, judged.trial, judged.costs, step)
    with step("schedule"):
        return plan_with(request, chain, costs_of(request, chain, examples, mix), mix)


def _model(request: CompileRequest, memory: MappedMemory, given: nn.Module | None) -> Loaded:
    spec, weights, seed = request.model.spec, request.weights, request.model.seed
    own = None if given is None else copy_of(given, memory)
    module = build_model(spec, seed, memory, filled=weights.file is not None, given=own)
    fill_meta(module, spec.build["_target_"], weights.file, memory.empty)
    if weights.file is not None:
        return load_weights(module, weights.file, weights.prefix, weights.unused is UnusedWeights.IGNORE, memory)
    check_numbers(module, f"model.build: {spec.name}")
    origin = f"random, seed {seed}" if given is None else f"of the {type(given).__name__} that was given"
    return Loaded(module=module, origin=origin)


@dataclass(frozen=True, kw_only=True)
class _Settled:
    """What is known once microbatch=auto has become a number."""

    request: CompileRequest
    notes: tuple[str, ...] = ()
    chain: Chain | None = None
    """Of more items than that, where the model was captured to choose it."""
    padding: Mapping[str, float] | None = None
    why_fixed: str = ""


def _with_profiles(
    request: CompileRequest, chain: Chain, examples: Batch, data: DataSpec, step: Step
) -> tuple[CompileRequest, tuple[str, ...]]:
    """With profile=auto: the request with the profiles that fit, measured here where a kind is this machine."""
    if request.profile.method is not ProfileMethod.auto or request.profile.measured is not None:
        return request, ()
    found = own_kinds(request, chain, examples, workload_extents(request, chain, data), step)
    return replace(request, profile=replace(request.profile, measured=found.measured)), found.notes


def _settled(request: CompileRequest, flat: FlatModel, golden: Batch, step: Step) -> _Settled:
    if not request.auto_microbatch:
        return _Settled(request=request)
    spec = request.model.spec
    one = at_microbatch(request, 1)
    try:
        with step("capture for any number of items"), abrupt_interrupts():
            examples = example_inputs(spec, golden, CANDIDATES[-1])
            chain = sized_chain_of(flat, spec, examples, request.capture)
            output_dims = tuple(tensor.dims for tensor in chain.boundaries[-1].tensors)
            padding = {} if request.capture.alike else padding_of(flat, chain.captured, output_dims, golden)
    except NotSymbolic as reason:
        return _Settled(request=one, notes=(f"microbatch=auto took 1: {reason}",), why_fixed=str(reason))
    except UserError:  # what is wrong with one item a message, too, is said then
        return _Settled(request=one)
    data = data_spec(request.data, chain.captured.output_names, request.weights.file, request.folder)
    request, own_notes = _with_profiles(request, chain, examples, data, step)
    with step("choose the microbatch"):
        microbatch, note = _fastest_microbatch(request, chain, golden, data, padding)
    settled = _Settled(request=at_microbatch(request, microbatch), notes=(*own_notes, note))
    return settled if microbatch == 1 else replace(settled, chain=chain, padding=padding)


def _fastest_microbatch(
    request: CompileRequest, chain: Chain, golden: Batch, data: DataSpec, padding: Mapping[str, float]
) -> tuple[int, str]:
    """See choose_microbatch. Where precisions are yet to be chosen: in the one that is fastest, where a kind has it."""
    choices = choices_of(request)
    alike = [item for item in choices if len(set(item.values()) - {Precision.FP32}) <= 1] or choices
    found: list[MicrobatchChoice] = []
    reasons: list[UserError] = []
    for choice in alike:
        try:
            found.append(choose_microbatch(with_precisions(request, choice), chain, golden, data, padding))
        except UserError as reason:
            reasons.append(reason)
    if not found:
        raise reasons[0]
    best = max(found, key=lambda item: item.items_per_s)
    return best.microbatch, best.note


def _captured(
    flat: FlatModel, spec: ModelSpec, examples: Batch, golden: Batch, settled: _Settled
) -> tuple[Chain, OtherSizes]:
    """The chain, for all sizes if the model allows it, and golden items of other sizes to compare its shards on."""
    request = settled.request
    if settled.chain is not None:
        chain = with_limit(settled.chain, examples)
    else:
        chain = chain_of(flat, spec, examples, request.capture, settled.why_fixed)
    output_dims = tuple(tensor.dims for tensor in chain.boundaries[-1].tensors)
    try:
        if Artifact.PT2 in (request.artifact.format, *request.artifact.per_stage) and chain.captured.dims:
            check_exported(chain, examples)
        alike, padding = request.capture.alike, settled.padding
        return chain, other_sizes(flat, chain.captured, output_dims, golden, alike, padding)
    except NotSymbolic as reason:
        return chain_of(flat, spec, examples, request.capture, str(reason)), OtherSizes()


def _designs(planned: Planned) -> tuple[StageDesign, ...]:
    request, schedule = planned.request, planned.schedule
    count = len(schedule.stages)
    artifacts = stage_artifacts(request.artifact, count)
    cuts = cut_formats(request.wire, count - 1)
    return design_stages(schedule, cuts, artifacts, request.cluster, planned.lowered)


def _write_stages(
    writer: StageWriter, schedule: Schedule, designs: Sequence[StageDesign], flow: Flow, step: Step
) -> CompiledPipeline:
    stages = []
    for number, design in enumerate(designs, 1):
        with step(f"write shard {number} of {len(designs)}"):
            stage = writer.write(design, flow.batches[0])
            flow = flow.through(writer.opened(stage.shard), f"stage {number} of {len(designs)}")
            stages.append(stage)
    return CompiledPipeline(schedule=schedule, stages=tuple(stages), outputs=flow.outputs(), others=flow.others)


def _write_fallbacks(
    writer: StageWriter, contingencies: Contingencies, request: CompileRequest, start: Flow, step: Step
) -> tuple[CompiledFallback, ...]:
    found = contingencies.fallbacks
    if not found:
        return ()
    with step(f"write shards for the loss of any of {len(found)} hosts"):
        return write_fallbacks(found, writer, request, start)
