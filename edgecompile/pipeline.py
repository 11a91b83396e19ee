"""compile_model(): the main path of the compiler, one call per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from edgecompile.artifacts.assemble import assemble_plan
from edgecompile.artifacts.data_files import check_labels, data_spec, write_golden
from edgecompile.artifacts.equality import Flow, check_shards
from edgecompile.artifacts.fallbacks import check_fallbacks, find_contingencies, write_fallbacks
from edgecompile.artifacts.shards import RAW, artifact_formats, write_reference, write_shard
from edgecompile.artifacts.wire_loss import is_lossy
from edgecompile.config.domain import ModelSpec, cluster_of, imports_of, model_of, with_pixels
from edgecompile.config.schema import Conf
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import check_place, write_plan
from edgecompile.execution.libraries import import_libraries
from edgecompile.frontend.capture.export_graph import library_notes
from edgecompile.frontend.capture.trace import FlatModel
from edgecompile.frontend.chain import step_checks as verify
from edgecompile.frontend.chain.build_chain import chain_of
from edgecompile.frontend.golden.decisions import check_decisions
from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs, make_reference
from edgecompile.models import build_model
from edgecompile.models.preparation import fill_meta
from edgecompile.models.weights import Loaded, check_numbers, load_weights
from edgecompile.partition.stages import partition
from edgecompile.profile.measured import make_profile
from edgecompile.terminal.process import abrupt_interrupts
from edgecompile.wire.exact_tensors import keep_exact
from edgecompile.wire.formats import cut_formats, may_lose

__all__ = ["Step", "compile_model"]

Step = Callable[[str], AbstractContextManager[object]]
"""Reports progress while its context is open."""


def compile_model(conf: Conf, step: Step, overrides: Sequence[str] = ()) -> Plan:
    """Compiles the model for the cluster; writes shards, golden items and then plan.yaml below `conf.output_dir`.

    Args:
        overrides: what the config was asked for; the plan keeps them.

    Raises:
        UserError: the config, the model, a file or the cluster does not allow it; nothing but unnamed shards is left.
    """
    spec, cluster, folder = with_pixels(model_of(conf.model), conf.data), cluster_of(conf), Path(conf.output_dir)
    check_place(folder / "plan.yaml")
    libraries = imports_of(conf.runtime)
    import_libraries(libraries)
    with step(f"build {spec.name}"), abrupt_interrupts():
        loaded = _model(spec, conf)
        module = loaded.module
        pixels = (conf.data.mean, conf.data.std) if conf.data.pixels == "uint8" else None
        flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs, pixels)
        golden = golden_inputs(spec, module, conf.seed)
        examples = example_inputs(spec, golden, conf.microbatch)
    with step("capture"), abrupt_interrupts():
        chain = keep_exact(chain_of(flat, spec, examples, conf), golden, conf.microbatch, may_lose(conf))
        captured = chain.captured
    with step("schedule"):
        profile = make_profile(chain, cluster, conf)
        schedule = partition(chain, profile, cluster, conf)
        verify.check_schedule(schedule, chain)
        contingencies = find_contingencies(chain, profile, cluster, conf, schedule)
        data = data_spec(conf.data, spec, captured.output_names, conf.weights, folder)
        check_labels(data, chain.boundaries[-1])
    with step("run the eager model on golden items"):
        reference = make_reference(flat, golden, conf.microbatch)
        check_decisions(captured, golden, conf.microbatch)
    notes = (*reference.notes, *library_notes(captured.graph_module.graph, libraries))
    formats = artifact_formats(conf, len(schedule.stages))
    wires = [RAW, *cut_formats(conf, len(schedule.stages) - 1), RAW]
    shards, start = [], Flow.of(reference, conf.microbatch, is_lossy(chain, schedule, wires))
    flow = start
    for index, stage in enumerate(schedule.stages):
        with step(f"write shard {index + 1} of {len(schedule.stages)}"):
            shard = write_shard(
                chain, stage.first, stage.last, folder / "shards", flow.batches[0], wires[index], wires[index + 1],
                formats[index],
            )  # fmt: skip
            flow = flow.through(shard, f"stage {index + 1} of {len(schedule.stages)}")
            shards.append(shard)
    if contingencies.fallbacks:
        with step(f"write shards for the loss of any of {len(contingencies.fallbacks)} hosts"):
            contingencies = write_fallbacks(contingencies, chain, folder / "shards", conf.artifact.format, start)
    with step("compare the shards with the eager model"):
        equality = check_shards(chain, schedule, flow.outputs(), reference, conf.microbatch, wires, conf.wire.max_error)
        equality = check_fallbacks(contingencies, chain, reference, conf, equality)
    with step("write the plan"):
        whole = write_reference(flat, examples, folder / "golden") if conf.reference else None
        items = write_golden(reference, captured, equality, whole, folder)
        plan = assemble_plan(
            conf, cluster=cluster, chain=chain, profile=profile, schedule=schedule, shards=shards, wires=wires,
            golden=items, data=data, origin=loaded.origin, notes=(*loaded.notes, *notes, *equality.notes),
            num_parameters=sum(value.numel() for value in module.parameters()), contingencies=contingencies,
            overrides=overrides,
        )  # fmt: skip
        write_plan(plan, folder / "plan.yaml")
    return plan


def _model(spec: ModelSpec, conf: Conf) -> Loaded:
    module = build_model(spec, conf.seed)
    fill_meta(module, spec.build["_target_"], conf.weights)
    if conf.weights is not None:
        return load_weights(module, conf.weights, conf.weights_prefix, conf.weights_unused == "ignore")
    check_numbers(module, f"model.build: {spec.name}")
    return Loaded(module=module, origin=f"random, seed {conf.seed}")
