"""Compiles stages into TorchScript or pt2 shards, named by their content; the only writer of shards."""

from __future__ import annotations

import io
import json
import re
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional

from edgecompile.artifacts.inplace import isolate_writes, show_shared_memory
from edgecompile.artifacts.lowering import Lowering
from edgecompile.artifacts.programs import export_program, lift_attributes, lift_constants
from edgecompile.artifacts.weight_store import WeightStore
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import store, temporary_in
from edgecompile.execution import torchscript
from edgecompile.execution.prepack import ROWS_RECORD, exported_rows, product_rows
from edgecompile.execution.stored_weights import WEIGHTS_RECORD, StoredTensor, written_record
from edgecompile.frontend.capture.dims import NotSymbolic, is_sized
from edgecompile.frontend.capture.graphs import dtype_name, erase_dead, op_name
from edgecompile.frontend.capture.source_lines import first_line, operator_at
from edgecompile.frontend.chain.generic import Extents, check_generic, generic_call, generic_module
from edgecompile.frontend.chain.units import BoundaryTensor, Chain
from edgecompile.frontend.passes.settle_layouts import BitViews
from edgecompile.wire.codec import insert_decoding, insert_encoding
from edgecompile.wire.formats import FORMATS, WireFormat, wire_tensors

__all__ = [
    "NO_SHARD",
    "RAW",
    "Frozen",
    "Shard",
    "check_exported",
    "freeze_module",
    "live_module",
    "needed_module",
    "stage_module",
    "write_reference",
    "write_shard",
]

RAW = FORMATS["fp32"]
_WRITTEN_AT_THE_END = frozenset({"version", "byteorder", "serialization_id"})
"""Records that an archive gets of its own."""
_NO_OPERATOR = re.compile(r"We don't have an op for \w+::(\w+)")


@dataclass(frozen=True, kw_only=True)
class Shard:
    path: Path
    sha256: str
    artifact: str = "torchscript"
    weights: tuple[str, ...] = ()
    """Stage.weights."""


NO_SHARD = Shard(path=Path(), sha256="", artifact="none")
"""Of a stage that is planned and not written."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A module traced at one microbatch size, its weights constants of its graph."""

    module: Any
    rows: list[int]
    """prepack.product_rows"""


def stage_module(
    chain: Chain,
    first: int,
    last: int,
    incoming: WireFormat = RAW,
    outgoing: WireFormat = RAW,
    *,
    live: bool = False,
    generic: bool = False,
) -> fx.GraphModule:
    """Units `first` to `last` as a module of their own, with only the weights that they read.

    Takes the tensors of boundary `first` and returns those of boundary `last + 1`, both in the boundary's order, each
    as the tensors that travel for it (wire.wire_tensors).

    Args:
        live: takes and returns the tensors that are alive there, where others would travel in their place.
        generic: for messages of any size, and only to be traced; otherwise for the largest.

    Raises:
        NotSymbolic: nothing that reaches the stage has a dimension that it needs.
    """
    begin, end = chain.boundaries[first], chain.boundaries[last + 1]
    nodes = [node for unit in chain.units[first : last + 1] for node in unit.nodes]
    taken, results = (begin.live, end.live) if live else (begin.tensors, end.tensors)
    return _module(chain, nodes, taken, results, incoming, outgoing, generic)


def live_module(chain: Chain, index: int, *, generic: bool = False) -> fx.GraphModule:
    """From the tensors that travel at a boundary to those that are alive there; `generic` as in stage_module."""
    boundary = chain.boundaries[index]
    return _module(chain, [], boundary.tensors, boundary.live, RAW, RAW, generic)


def needed_module(
    chain: Chain, index: int, results: Sequence[BoundaryTensor], *, generic: bool = False
) -> fx.GraphModule | None:
    """From the model's inputs to some of the tensors at a boundary, with the operators alone that these need.

    None where these read weights, or one of them writes into a tensor: then all units before have to run.
    """
    needed: set[fx.Node] = set()
    unseen = [tensor.node for tensor in results]
    while unseen:
        node = unseen.pop()
        if node not in needed:
            needed.add(node)
            unseen += node.all_input_nodes
    nodes = [node for unit in chain.units[:index] for node in unit.nodes if node in needed]
    begin = chain.boundaries[0].tensors
    if any(node.meta.get("writes") for node in nodes):
        return None
    module = _module(chain, nodes, begin, results, RAW, RAW, generic)
    return None if list(module.parameters()) else module


def _module(
    chain: Chain,
    nodes: Sequence[fx.Node],
    taken: Sequence[BoundaryTensor],
    results: Sequence[BoundaryTensor],
    incoming: WireFormat,
    outgoing: WireFormat,
    generic: bool = False,
) -> fx.GraphModule:
    graph = fx.Graph()
    copies = insert_decoding(graph, taken, incoming)
    extents = Extents(graph, [(copies[tensor.node], tensor.dims) for tensor in taken])

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:  # a constant, or what is made of the sources that travel: each stage has its own
            assert node.op in ("get_attr", "call_function", "call_method", "call_module"), node
            for argument in node.all_input_nodes:
                copy(argument)
            if generic and is_sized(node):
                copies[node] = generic_call(graph, node, extents, copy)
            else:
                copies[node] = graph.node_copy(node, lambda argument: copies[argument])
        return copies[node]

    for node in nodes:
        copy(node)
    graph.output(insert_encoding(graph, [copy(tensor.node) for tensor in results], results, outgoing))
    erase_dead(graph)
    graph.lint()
    return fx.GraphModule(chain.captured.graph_module, graph, class_name="Stage").eval()


def write_shard(
    chain: Chain,
    first: int,
    last: int,
    folder: Path,
    examples: Sequence[torch.Tensor],
    incoming: WireFormat = RAW,
    outgoing: WireFormat = RAW,
    artifact: str = "torchscript",
    store: WeightStore | None = None,
    lowering: Lowering | None = None,
) -> Shard:
    """Traces, freezes and saves one stage as `folder/<sha256>.pt`; the same stage gives the same bytes anywhere.

    Args:
        store: keeps the weights; without one the shard holds them itself.
        lowering: the precision of its products; None: float32.
        examples: what reaches the stage, as it travels, of one microbatch of real items. Made-up tensors would not do:
            operators may insist on values, such as indices that are there, or a matrix that is positive definite.

    Raises:
        AssertionError: an operator names a device, so that the shard would run on that one alone.
    """
    generic = chain.captured.sampling is not None
    module = stage_module(chain, first, last, incoming, outgoing, generic=generic)
    if lowering is not None:
        module = lowering.applied(module, store)
    travelling = [spec for tensor in chain.boundaries[first].tensors for spec in wire_tensors(tensor, incoming)]
    for spec, example in zip(travelling, examples, strict=True):
        assert (spec.shape, spec.dtype) == (tuple(example.shape), dtype_name(example.dtype)), spec.name
    examples = tuple(example.clone() for example in examples)  # which the traced operators may write into
    if artifact == "pt2":
        dims = [spec.dims for spec in travelling] if generic else []
        return _export(module, examples, dims, folder, store)
    frozen = freeze_module(module, examples)
    _check_names_no_device(frozen.module)
    return _save(frozen, folder, store)


def write_reference(flat: nn.Module, chain: Chain, examples: Sequence[torch.Tensor], folder: Path) -> Shard:
    """The unsplit model, traced before any pass: what `edgelaunch --verify` compares every item with."""
    captured, module = chain.captured, flat
    if captured.unpassed is not None and captured.sampling is not None:
        try:
            check_generic(captured.unpassed.graph)
            module = generic_module(captured.unpassed, captured.sampling.input_dims)
        except NotSymbolic:  # an operator that only a pass makes one for any size
            module = stage_module(chain, 0, len(chain.units) - 1, generic=True)
    with BitViews():
        frozen = freeze_module(module, tuple(examples))
    return _save(frozen, folder)


def check_exported(chain: Chain, examples: Sequence[torch.Tensor]) -> None:
    """Raises NotSymbolic where torch.export holds the whole model to the examples' sizes."""
    module = stage_module(chain, 0, len(chain.units) - 1, generic=True)
    try:
        export_program(module, examples, (), [tensor.dims for tensor in chain.boundaries[0].tensors])
    except Exception as error:  # whatever torch.export raises
        raise NotSymbolic(f"artifact=pt2: {first_line(error)}") from error


def _export(
    module: fx.GraphModule,
    examples: tuple[torch.Tensor, ...],
    dims: Sequence[Sequence[str | None]],
    folder: Path,
    weights: WeightStore | None,
) -> Shard:
    """`dims`: for each example the dimension of each axis, where the program is for messages of any size."""
    stored: list[StoredTensor] = []
    values: list[torch.Tensor] = []
    if weights is not None:
        module, stored, values = lift_attributes(module, weights)
    program = export_program(module, examples, values, dims)
    for node in program.graph.nodes:  # paths of the machine that traced it
        for key in ("stack_trace", "source_fn_stack", "from_node"):
            node.meta.pop(key, None)
    extra = {ROWS_RECORD: json.dumps(exported_rows(program))}
    if stored:
        extra[WEIGHTS_RECORD] = written_record(stored)

    def write(path: Path) -> None:
        with open(path, "wb") as file:  # by path, torch would write the file's own name into the archive
            torch.export.save(program, cast(io.BytesIO, file), extra_files=extra)

    path, digest = store(folder, ".pt2", write)
    return Shard(path=path, sha256=digest, artifact="pt2", weights=_files(stored))


def _save(frozen: Frozen, folder: Path, weights: WeightStore | None = None) -> Shard:
    extra, stored = {ROWS_RECORD: json.dumps(frozen.rows)}, list[StoredTensor]()
    with temporary_in(folder, "raw") as raw:
        if weights is not None:
            graph, stored = lift_constants(frozen.module, weights)
        if stored:
            torchscript.save_graph(graph, raw, {**extra, WEIGHTS_RECORD: written_record(stored)})
        else:
            torchscript.save(frozen.module, str(raw), extra)
        path, digest = store(folder, ".pt", lambda clean: _rewrite(raw, clean))
    return Shard(path=path, sha256=digest, weights=_files(stored))


def _files(stored: Sequence[StoredTensor]) -> tuple[str, ...]:
    return tuple(sorted({item.file for item in stored}))


def freeze_module(module: nn.Module, examples: tuple[torch.Tensor, ...]) -> Frozen:
    _forget_classes()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # what depends on values was captured with them: nothing is left to warn of
        try:
            traced = torchscript.trace(module, examples)
        except (RuntimeError, IndexError) as error:
            missing = _NO_OPERATOR.search(str(error))
            if missing is None:
                raise  # an operator's own, which insists on other values: edgeprofile tries those
            raise UserError(_explain(missing[1], module)) from error
        except Exception as error:  # functions of torch's that look at their arguments raise whatever they like
            raise UserError(_cannot_trace(error)) from error
        torch._C._jit_pass_inline(traced.graph)
        _forget_devices(traced.graph)
        rows = product_rows(traced.graph)
        show_shared_memory(traced.graph)
        frozen = torchscript.freeze(traced.eval())
        isolate_writes(frozen.graph)
        return Frozen(module=frozen, rows=rows)


def _explain(name: str, module: nn.Module) -> str:
    """Of an operator that torch has and TorchScript lacks, such as view(dtype)."""
    nodes = module.graph.nodes if isinstance(module, fx.GraphModule) else ()
    # the operator's other forms may well be there: the last one of the name is as likely as any
    found = [node for node in nodes if op_name(node) == name]
    unusual = [node for node in found if not str(node.target).endswith(".default")]
    where = operator_at((unusual or found)[-1]) if found else name
    return (
        f"the model calls {where}, in a form that TorchScript has no operator for: artifact=pt2 writes shards that "
        "hold it (for ranks whose torch is this one or newer)"
    )


def _cannot_trace(error: Exception) -> str:
    """Of a function that looks at its arguments; an exported graph holds operators alone, which do not."""
    frames = traceback.extract_tb(error.__traceback__)
    called = next((frame.name for frame in frames if frame.filename == functional.__file__), "")
    return (
        f"TorchScript cannot trace the model{f' in {called}' if called else ''}: {type(error).__name__}: "
        f"{first_line(error)} (with capture=symbolic_trace, try capture=export)"
    )


def _forget_devices(graph: Any) -> None:
    """Modules and functions that symbolic_trace leaves whole make tensors on the device that they were traced on."""
    for node in graph.findAllNodes("prim::Constant"):
        if str(node.output().type()) != "Device":
            continue
        for use in node.output().uses():
            schema = torch._C.parse_schema(use.user.schema())
            if str(schema.arguments[use.offset].type) == "Optional[Device]":
                graph.setInsertPoint(node)
                use.user.replaceInput(use.offset, graph.insertConstant(None))


def _forget_classes() -> None:
    """TorchScript numbers classes of the same name within a process; forgotten, every shard has the same first name."""
    torch.jit._state._python_cu = torch._C.CompilationUnit()
    torch.jit._recursive.concrete_type_store = torch.jit._recursive.ConcreteTypeStore()
    torch.jit._state._clear_class_state()


def _check_names_no_device(frozen: Any) -> None:
    for node in frozen.inlined_graph.nodes():
        for output in node.outputs():
            if node.kind() == "prim::Constant" and str(output.type()) == "Device":
                users = ", ".join(sorted({use.user.kind() for use in output.uses()}))
                raise AssertionError(f"the shard names a device ({node.s('value')}) in {users or 'no operator'}")


def _rewrite(source: Path, destination: Path) -> None:
    """Copies the archive without its debug records, which hold the paths of the machine that traced it."""
    reader = torch._C.PyTorchFileReader(str(source))
    # what operators do depends on it: in an archive of an older one, a division of whole numbers drops the fraction
    version = int(reader.get_record("version" if "version" in reader.get_all_records() else ".data/version"))
    with open(destination, "wb") as file:
        writer = torch._C.PyTorchFileWriter(file)
        writer.set_min_version(version)
        for name in sorted(reader.get_all_records()):
            if name.endswith(".debug_pkl") or name.removeprefix(".data/") in _WRITTEN_AT_THE_END:
                continue
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
        writer.write_end_of_file()
