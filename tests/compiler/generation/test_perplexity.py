"""Perplexity is that of the text's tokens, of the model and of what stages compute; plans hold it where it is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compiler_helpers import Compile
from tiny_language import CONTEXT, VOCABULARY, Tiny, tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch.nn import functional

from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import GeneratedText, StateSpec
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan, write_plan
from edgecompile.contract.validation import check_plan
from edgecompile.explore.explain import explain, tables
from edgecompile.explore.show import text_lines
from edgecompile.generation.english_text import ENGLISH
from edgecompile.generation.golden_texts import RunStage
from edgecompile.generation.perplexity import measured_perplexity, windows_of

STATE = tuple(StateSpec(unit=0, layer=layer, groups=2, key_size=8, value_size=8) for layer in range(3))
SIZES = ("num_hidden_layers=1", "hidden_size=64", "intermediate_size=96", "num_attention_heads=4",
         "num_key_value_heads=2", "vocab_size=300")  # fmt: skip


def write_tokenizer(folder: Path, *, start: bool = True) -> Path:
    """Every byte is a token; a text begins with <s>, which is 0, if `start`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate(["<s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize(("start", "context", "room"), [(True, 1024, 128), (False, 1024, 128), (True, 50, 49)])
def test_windows_are_the_text_in_order(tmp_path: Path, start: bool, context: int, room: int) -> None:
    path = write_tokenizer(tmp_path, start=start)
    windows = windows_of(path, context, 4)
    assert [len(text.prompt) for text in windows] == [1 + start] * 4
    assert all(len(text.prompt) + len(text.tokens) == room + start for text in windows)
    assert all(text.prompt[0] == 0 for text in windows) == start
    ids = [number for text in windows for number in (text.prompt[-1], *text.tokens)]
    assert Tokenizer.from_file(str(path)).decode(ids) == ENGLISH[: 4 * room]
    assert len(windows_of(path, context, 1)) == 2


def _texts() -> list[GeneratedText]:
    ids = torch.randint(0, VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(5)).tolist()
    return [
        GeneratedText(prompt=tuple(row[:2]), tokens=tuple(row[2 : CONTEXT - place])) for place, row in enumerate(ids)
    ]


def _stage(model: Tiny) -> RunStage:
    return RunStage(run=lambda *values: tuple(model.step(*values).values()), units=(0, 0), places=(2, 1))


def _model(noise: float = 0.0) -> Tiny:
    found = tiny("LlamaForCausalLM", "LlamaConfig", initializer_range=0.3)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for value in found.step.model.parameters():
            value.add_(noise * torch.randn(value.shape, generator=generator))
    found.reference.load_state_dict(found.step.model.state_dict())
    return found


def _wanted(model: Tiny) -> tuple[float, torch.Tensor]:
    """By transformers alone: the perplexity, and the logarithms of what is foretold, (tokens, vocabulary)."""
    logs, true = [], []
    for text in _texts():
        with torch.no_grad():
            scores = model.reference(input_ids=torch.tensor([(*text.prompt, *text.tokens)])).logits[0]
        logs.append(scores[1:-1].double().log_softmax(-1))
        true += text.tokens
    joined = torch.cat(logs)
    return float(functional.nll_loss(joined, torch.tensor(true)).exp()), joined


def test_it_is_that_of_transformers_before_and_after() -> None:
    usual, other = _model(), _model(0.05)
    found = measured_perplexity(usual.step, _texts(), [_stage(other)], STATE, 8, 2, rounded=True)
    assert found is not None
    before, right = _wanted(usual)
    after, given = _wanted(other)
    nats = (right.exp() * (right - given)).sum(-1)
    assert found.tokens == len(right)
    assert found.model == pytest.approx(before, rel=1e-4)
    assert found.plan == pytest.approx(after, rel=1e-4)
    assert found.plan != pytest.approx(found.model, rel=1e-3)
    assert found.mean_divergence == pytest.approx(float(nats.mean()), rel=1e-3)
    assert found.worst_divergence == pytest.approx(float(nats.max()), rel=1e-3)
    same = float((right.argmax(-1) == given.argmax(-1)).double().mean())
    assert found.same == pytest.approx(same, abs=0.02)
    assert found.same < 1


def test_stages_that_round_nothing_are_not_run() -> None:
    model = _model()
    found = measured_perplexity(model.step, _texts(), [], STATE, 8, 2, rounded=False)
    assert found is not None
    assert (found.plan, found.mean_divergence, found.same) == (None, 0.0, 1.0)
    assert found.model == pytest.approx(_wanted(model)[0], rel=1e-4)


def test_figures_that_are_not_finite_are_none() -> None:
    model = _model()
    with torch.no_grad():
        model.step.model.lm_head.weight.mul_(1e6)
    assert measured_perplexity(model.step, _texts(), [], STATE, 8, 2, rounded=False) is None


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    from compiler_helpers import compile_into

    folder = tmp_path_factory.mktemp("perplexity")
    return compile_into(folder / "out", *_overrides(write_tokenizer(folder)), "precision=int4_weights")


def _overrides(tokenizer: Path | None) -> tuple[str, ...]:
    sizes = (f"model.build.config.{size}" for size in SIZES)
    named = () if tokenizer is None else (f"generation.tokenizer={tokenizer}",)
    return ("model=smollm2_135m", *sizes, *named, "hosts.count=1", "generation.context=64", "generation.chunk=16",
            "generation.prompt=16", "generation.tokens=16", "accuracy.budget=1")  # fmt: skip


@pytest.mark.slow
def test_a_plan_holds_and_tells_it(planned: Plan, tmp_path: Path) -> None:
    assert planned.generation is not None
    found = planned.generation.perplexity
    assert found is not None
    assert found.plan is not None
    assert found.tokens == 4 * 62
    assert found.mean_divergence > 0
    line = (
        f"perplexity on 248 tokens of a plain English text: {found.model:.1f} in fp32, {found.plan:.1f} with this plan"
    )
    assert any(str(text).startswith(line) for text in text_lines(planned.generation))
    assert any(str(part).startswith(line) for part in tables(planned, explain(planned)))
    plain = replace(planned, generation=replace(planned.generation, perplexity=None))
    write_plan(plain, tmp_path / "plan.yaml")
    assert "perplexity" not in (tmp_path / "plan.yaml").read_text(encoding="utf-8")
    assert read_plan(tmp_path / "plan.yaml") == plain  # as those are that were written before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [("tokens", 0), ("model", 0.5), ("model", float("nan")), ("plan", float("inf")), ("mean_divergence", -1.0),
     ("worst_divergence", float("nan")), ("same", 1.5)],
)  # fmt: skip
def test_figures_that_cannot_be_are_refused(planned: Plan, key: str, value: Any) -> None:
    assert planned.generation is not None
    assert planned.generation.perplexity is not None
    edited = replace(planned.generation.perplexity, **{key: value})
    with pytest.raises(UserError, match=rf"^plan.yaml: invalid value .* for generation\.perplexity\.{key}"):
        check_plan(replace(planned, generation=replace(planned.generation, perplexity=edited)), "plan.yaml")


@pytest.mark.slow
def test_without_a_tokenizer_the_plan_says_that_it_is_not_measured(compile_here: Compile) -> None:
    plan = compile_here(*_overrides(None))
    assert plan.generation is not None
    assert plan.generation.perplexity is None
    assert any(note.startswith("perplexity is not measured: there is no tokenizer") for note in plan.notes)


@pytest.mark.slow
def test_a_tokenizer_of_another_model_is_not_measured(compile_here: Compile, tmp_path: Path) -> None:
    plan = compile_here(*_overrides(write_tokenizer(tmp_path)), "model.build.config.vocab_size=100")
    assert any("tokens that the model does not know" in note for note in plan.notes)
