"""A tiny language model of random weights, compiled once a session with a tokenizer."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from tiny_text import CHATML, write_byte_level

from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan

_SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
          "num_key_value_heads": 2, "vocab_size": 400, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
          "+initializer_range": 0.3}  # fmt: skip


@pytest.fixture(scope="session")
def text_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plan.yaml of a tiny Llama in two stages, whose answers end at no token; four slots of 128 tokens."""
    from edgecompile.commands.compile_command import compose
    from edgecompile.pipeline import compile_model

    folder = tmp_path_factory.mktemp("text")
    write_byte_level(folder)
    words = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(words), encoding="utf-8")
    sizes = [
        f"{'+' * key.startswith('+')}model.build.config.{key.removeprefix('+')}={size}" for key, size in _SIZES.items()
    ]
    compile_model(compose([
        "model=smollm2_135m", *sizes, "generation.context=128", "generation.chunk=16", "generation.prompt=16",
        "generation.tokens=32", f"generation.tokenizer={folder}", f"output_dir={folder / 'out'}",
    ]), nullcontext)  # fmt: skip
    return folder / "out" / "plan.yaml"


@pytest.fixture(scope="session")
def text_facts(text_plan: Path) -> Plan:
    plan = read_plan(text_plan)
    assert len(plan.stages) == 2
    assert plan.generation is not None
    return plan
