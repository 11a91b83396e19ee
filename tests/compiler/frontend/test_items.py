"""An item's result depends on the item alone, the same at every run; what cannot be so is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import unruly
from compiler_helpers import Compile
from torch import nn

from edgecompile.artifacts.inplace import isolate_writes
from edgecompile.artifacts.shards import freeze_module
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.execution.opened_shard import open_stage
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.golden.golden_items import Reference, make_reference

ITEMS = torch.randn(5, 5, 8, generator=torch.Generator().manual_seed(0))


def reference_of(module: nn.Module, microbatch: int) -> Reference:
    return make_reference(FlatModel(module.eval().requires_grad_(False), ["x"], ()), [ITEMS[:4]], microbatch)


def run_shards(plan: Plan, folder: Path, items: torch.Tensor) -> list[torch.Tensor]:
    """The shards of a plan, chained, on items in microbatches; the last one is filled up."""
    size = plan.model.microbatch
    stages = [open_stage(stage, folder).run for stage in plan.stages]
    pieces = []
    for start in range(0, len(items), size):
        values = [items[[min(start + place, len(items) - 1) for place in range(size)]]]
        for stage in stages:
            values = [value.contiguous() for value in stage(*values)]
        pieces.append(values)
    return [torch.cat(parts)[: len(items)] for parts in zip(*pieces, strict=True)]


@pytest.fixture
def compile_unruly(compile_here: Compile, tmp_path: Path) -> Callable[..., tuple[Plan, Path]]:
    def run(name: str, *overrides: str) -> tuple[Plan, Path]:
        plan = compile_here(
            "model=custom", f"model.build._target_=unruly.{name}", "model.inputs={x: {shape: [5, 8], dtype: float32}}",
            "hosts.count=2", *overrides,
        )  # fmt: skip
        return plan, tmp_path / "outputs"

    return run


@pytest.mark.parametrize("microbatch", [2, 3, 4, 6])
@pytest.mark.parametrize("kind", unruly.MIXING)
def test_items_that_influence_each_other_are_refused(kind: type[nn.Module], microbatch: int) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"influence each other: output 'output' of item \d.* item.*batch_first=True"):
        reference_of(kind(), microbatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", unruly.MIXING)
def test_one_item_at_a_time_they_are_computed_alone_and_a_note_says_so(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = kind()
    reference = reference_of(module, 1)
    (note,) = reference.notes
    assert "influence each other" in note
    assert "computed alone" in note
    with torch.no_grad():
        alone = torch.cat([module(ITEMS[row : row + 1].double().float()) for row in range(4)])
    assert torch.allclose(reference.exact[0].float(), alone, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [1, 2, 3, 4])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_hidden_states_are_no_items(kind: type[nn.GRU] | type[nn.LSTM], layers: int, microbatch: int) -> None:
    with pytest.raises(UserError, match=rf"'output' has the shape \[{layers}, \d, 8\] .*must be the items"):
        reference_of(unruly.Hidden(kind, layers), microbatch)


@pytest.mark.parametrize("microbatch", [1, 2, 3, 4])
def test_a_constant_is_no_result(microbatch: int) -> None:
    with pytest.raises(UserError, match=rf"'1' has the shape \[{microbatch}, 8\] for \d items?: .*model.output"):
        reference_of(unruly.Table(microbatch), microbatch)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["logits_per_image", "logits_per_text"])
def test_similarities_of_clip_are_refused_and_its_embeddings_are_not(compile_here: Compile, output: str) -> None:
    tiny = "hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2"
    model = (
        "model=transformers", "model.build.architecture=CLIPModel", "microbatch=2",
        f"+model.build.config={{text_config: {{{tiny}, vocab_size: 50, max_position_embeddings: 8, eos_token_id: 49}}, "
        f"vision_config: {{{tiny}, image_size: 16, patch_size: 8}}, projection_dim: 8}}",
        "model.inputs={input_ids: {shape: [8], dtype: int64}, pixel_values: {shape: [3, 16, 16], dtype: float32}}",
    )  # fmt: skip
    with pytest.raises(UserError, match=f"influence each other: output '{output}' of item"):
        compile_here(*model, f"model.output={output}")
    if output == "logits_per_image":
        plan = compile_here(*model, "model.output=[image_embeds,text_embeds]")
        assert [spec.shape for spec in plan.outputs] == [(2, 8), (2, 8)]


@pytest.mark.parametrize("microbatch", [1, 2, 4])
@pytest.mark.parametrize(("kind", "attribute"), unruly.STATEFUL.items())
def test_state_between_calls_is_refused_by_name(kind: type[nn.Module], attribute: str, microbatch: int) -> None:
    with pytest.raises(UserError, match=rf"keeps state between calls: its forward\(\) writes .*\b{attribute}"):
        reference_of(kind(), microbatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", unruly.STATEFUL)
def test_no_stateful_module_is_compiled(kind: type[nn.Module], compile_unruly: Callable[..., object]) -> None:
    """Whether torch.export takes it or not, the reason is the same."""
    with pytest.raises(UserError, match="keeps state between calls"):
        compile_unruly(kind.__name__, "microbatch=2")


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [1, 2, 4])
@pytest.mark.parametrize("artifact", ["torchscript", "pt2"])
@pytest.mark.parametrize("name", ["OnlyNotes", "WritesInput"])
def test_harmless_writes_compile_to_the_right_result(
    name: str, artifact: str, microbatch: int, compile_unruly: Callable[..., tuple[Plan, Path]]
) -> None:
    plan, folder = compile_unruly(name, f"microbatch={microbatch}", f"artifact={artifact}")
    if artifact == "torchscript":
        torch.manual_seed(0)  # as the model was built
        module = getattr(unruly, name)().eval()
        with torch.no_grad():
            wanted = torch.cat([module(ITEMS[row : row + 1].clone()) for row in range(5)])
        before = ITEMS.clone()
        assert torch.allclose(run_shards(plan, folder, ITEMS)[0], wanted, atol=1e-6)
        assert torch.equal(before, ITEMS)


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [1, 2, 4])
def test_recurrent_cells_give_the_same_result_at_every_run(
    microbatch: int, compile_unruly: Callable[..., tuple[Plan, Path]]
) -> None:
    plan, folder = compile_unruly("Cells", f"microbatch={microbatch}", "reference=true")
    torch.manual_seed(0)
    module = unruly.Cells().eval()
    with torch.no_grad():
        wanted = module(ITEMS)
        whole = torch.jit.load(str(folder / str(plan.golden.reference)))
        twice = [whole(ITEMS[:microbatch]) for _ in range(2)]
    for got, want in zip(run_shards(plan, folder, ITEMS), wanted, strict=True):
        assert torch.allclose(got, want, atol=1e-6)
    for first, second, want in zip(*twice, wanted, strict=True):
        assert torch.equal(first, second)
        assert torch.allclose(second, want[:microbatch], atol=1e-6)


def test_no_frozen_graph_writes_a_constant_or_its_input() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(2, 4))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            left, right = torch.ops.aten.unsafe_chunk(self.table * 2, 2, 1)  # hides that it shares memory
            whole = left.add_(x[:, :2])
            x.view(-1).mul_(3)
            pieces = [torch.zeros(2, 2), torch.zeros(2, 2)]
            pieces[1].add_(1)
            return whole, right, x, pieces[1]

    module, x = Writes().eval(), torch.arange(8.0).reshape(2, 4)
    wanted = module(x.clone())
    frozen = freeze_module(module, (x.clone(),)).module
    for _ in range(2):
        for got, want in zip(frozen(x), wanted, strict=True):
            assert torch.equal(got, want)
    assert torch.equal(x, torch.arange(8.0).reshape(2, 4))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_written_constant_list_is_copied_at_each_run() -> None:
    module = unruly.Cells(2).eval().requires_grad_(False)
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(module, (ITEMS[:2],), check_trace=False).eval())  # as torch does it
        wanted, before = module(ITEMS[:2]), [traced(ITEMS[:2])[0] for _ in range(2)]
        assert not torch.equal(*before), "torch has fixed this: inplace.py may go"
        traced = torch.jit.freeze(torch.jit.trace(module, (ITEMS[:2],), check_trace=False).eval())
        isolate_writes(traced.graph)
        for _ in range(3):
            assert torch.allclose(traced(ITEMS[:2])[0], wanted[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "where"),
    [("Dropout", "operator dropout of the module 'inner'"), ("Seeded", "rand_like"), ("OwnGenerator", "rand"),
     ("DropsInAttention", "scaled_dot_product_attention")],
)  # fmt: skip
@pytest.mark.parametrize("microbatch", [1, 2])
def test_random_operators_are_refused_by_name(
    name: str, where: str, microbatch: int, compile_unruly: Callable[..., object]
) -> None:
    with pytest.raises(UserError, match=f"the model is random: its {'operator ' if ' ' not in where else ''}{where}"):
        compile_unruly(name, f"microbatch={microbatch}")


@pytest.mark.parametrize("kind", [unruly.Dropout, unruly.Seeded, unruly.DropsInAttention])
def test_the_eager_run_names_the_line_that_draws(kind: type[nn.Module]) -> None:
    with pytest.raises(UserError, match=r"the model is random: its operator \w+ \(\S*unruly\.py:\d+\) draws"):
        reference_of(kind(), 2)


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [1, 2])
@pytest.mark.parametrize("name", ["TrainingBatchNorm", "SwitchesItself"])
def test_a_batch_norm_in_training_mode_is_refused_by_name(
    name: str, microbatch: int, compile_unruly: Callable[..., object]
) -> None:
    with pytest.raises(UserError, match=re.escape("the batch norm of the module 'inner' runs in training mode")):
        compile_unruly(name, f"microbatch={microbatch}")


@pytest.mark.parametrize("microbatch", [1, 2, 4])
@pytest.mark.parametrize("kind", [unruly.InstanceNorm, unruly.HalfInside])
def test_models_that_only_look_so_are_taken(kind: type[nn.Module], microbatch: int) -> None:
    assert reference_of(kind(), microbatch).notes == ()


@pytest.mark.parametrize("microbatch", [2, 3, 4, 6])
@pytest.mark.parametrize("kind", unruly.RARELY_MIXING)
def test_influences_that_show_only_now_and_then_are_found(kind: type[nn.Module], microbatch: int) -> None:
    torch.manual_seed(0)
    with pytest.raises(UserError, match=r"influence each other: output 'output' of item \d.* item"):
        reference_of(kind(), microbatch)


@pytest.mark.parametrize("microbatch", [2, 3, 4, 6])
def test_an_influence_that_takes_equal_numbers_is_found(microbatch: int) -> None:
    """Ids drawn out of many are never equal, and an item beside copies of itself attends to what it knows."""
    ids = torch.arange(1, 21).reshape(4, 5)
    with pytest.raises(UserError, match=r"influence each other.* have the same document"):
        make_reference(FlatModel(unruly.Packed(), ["x", "document"], ()), [ITEMS[:4], ids], microbatch)


@pytest.mark.slow
@pytest.mark.parametrize("microbatch", [1, 2, 5])
@pytest.mark.parametrize("name", ["MaskedOutput", "DropoutAlias", "CachedTables"])
def test_results_equal_the_eager_models(
    name: str, microbatch: int, compile_unruly: Callable[..., tuple[Plan, Path]]
) -> None:
    plan, folder = compile_unruly(name, f"microbatch={microbatch}", "schedule=even")
    assert plan.golden.tolerance["output"] < 1e-4  # which the least float in the output would make 1e32
    torch.manual_seed(0)
    module = getattr(unruly, name)().eval()
    with torch.no_grad():
        wanted = torch.cat([module(ITEMS[row : row + 1]) for row in range(5)])
    (got,) = run_shards(plan, folder, ITEMS)
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_two_outputs_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"two tensors named 'a\.b'"):
        reference_of(unruly.TwoOfAName(), 2)


def test_influences_in_microbatches_larger_than_the_golden_items_are_found_in_the_shards(
    compile_unruly: Callable[..., object],
) -> None:
    with pytest.raises(UserError, match="influence each other: a result of item"):
        compile_unruly("RollByFour", "microbatch=8")
