"""Plans that several tests use, written once a session."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import launch_plans
import pytest
from tiny_text import CHATML, write_byte_level

from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan

_SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
          "num_key_value_heads": 2, "vocab_size": 400, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
          "+initializer_range": 0.3}  # fmt: skip


@pytest.fixture(scope="session")
def two_stages(tmp_path_factory: pytest.TempPathFactory) -> launch_plans.Written:
    """One float input, two stages that double it."""
    return launch_plans.floats(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="session")
def one_stage(tmp_path_factory: pytest.TempPathFactory) -> launch_plans.Written:
    return launch_plans.floats(tmp_path_factory.mktemp("one"), num_stages=1)


@pytest.fixture(scope="session")
def three_stages(tmp_path_factory: pytest.TempPathFactory) -> launch_plans.Written:
    """Two inputs, four outputs, four dtypes, and a tensor that passes through."""
    return launch_plans.three_stages(tmp_path_factory.mktemp("three"))


@pytest.fixture
def copied(two_stages: launch_plans.Written, tmp_path: Path) -> launch_plans.Written:
    """A two-stage plan that a test may damage."""
    folder = tmp_path / "plan"
    shutil.copytree(two_stages.path.parent, folder)
    return launch_plans.Written(folder / "plan.yaml", two_stages.plan, two_stages.parts, two_stages.microbatch)


@pytest.fixture(scope="session")
def text_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plan.yaml of a tiny Llama in two stages, whose answers end at no token; four slots of 128 tokens."""
    return _text_plan(tmp_path_factory.mktemp("text"))


_RECENT = ("model.build.architecture=MistralForCausalLM", "+model.build.config.sliding_window=20")


@pytest.fixture(scope="session", params=[(), _RECENT], ids=["all", "window"])
def bf16_text_plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in int8 with keys and values in bf16; a token of the second sees the last 20 alone."""
    return _text_plan(tmp_path_factory.mktemp("bf16"), "precision=int8", "generation.cache=bf16", *request.param)


def _text_plan(folder: Path, *words: str) -> Path:
    from edgecompile.commands.compile_command import compose
    from edgecompile.pipeline import compile_model

    write_byte_level(folder)
    special = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")
    sizes = [
        f"{'+' * key.startswith('+')}model.build.config.{key.removeprefix('+')}={size}" for key, size in _SIZES.items()
    ]
    compile_model(compose([
        "model=smollm2_135m", *sizes, "generation.context=128", "generation.chunk=16", "generation.prompt=16",
        "generation.tokens=32", f"generation.tokenizer={folder}", f"output_dir={folder / 'out'}",
        *words,
    ]), nullcontext)  # fmt: skip
    return folder / "out" / "plan.yaml"


@pytest.fixture(scope="session")
def text_facts(text_plan: Path) -> Plan:
    plan = read_plan(text_plan)
    assert len(plan.stages) == 2
    assert plan.generation is not None
    return plan
