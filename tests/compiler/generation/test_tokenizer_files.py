"""A plan's tokenizer, template and ends come from where the model's files are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from edgecompile.config.generation_request import GenerationRequest
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.generation.tokenizer_files import TokenizerFiles, stop_ids_of, tokenizer_files


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with a tokenizer, as save_pretrained writes it."""
    folder = tmp_path / "model"
    folder.mkdir()
    Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1, "a": 2}, merges=[])).save(str(folder / "tokenizer.json"))
    return folder


def settings(folder: Path, **values: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


def files(out: Path, tokenizer: Path | None = None, weights: Path | None = None) -> TokenizerFiles:
    request = GenerationRequest(slots=1, context=8, chunk=2, prompt=1, tokens=1, candidates=1, tokenizer=tokenizer)
    return tokenizer_files(request, None if weights is None else str(weights), out)


def test_the_tokenizer_beside_the_weights_is_copied(written: Path, tmp_path: Path) -> None:
    settings(written, bos_token="<s>", eos_token={"content": "</s>"}, pad_token=None, chat_template="{{ messages }}")
    (written / "model.safetensors").touch()
    for weights in (written, written / "model.safetensors"):
        found = files(tmp_path, weights=weights)
        assert found.path is not None
        assert (tmp_path / found.path).read_bytes() == (written / "tokenizer.json").read_bytes()
        assert found.sha256 == file_sha256(tmp_path / found.path)
        assert (found.template, found.stop_ids) == ("{{ messages }}", (1,))
        assert found.words == {"bos_token": "<s>", "eos_token": "</s>"}


def test_without_a_tokenizer_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    for weights in (None, tmp_path, tmp_path / "model.safetensors"):
        assert files(tmp_path, weights=weights) == TokenizerFiles()


def test_a_tokenizer_that_is_named_goes_before_that_of_the_weights(written: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Tokenizer(models.BPE(vocab={"b": 0}, merges=[])).save(str(other / "tokenizer.json"))
    for name in (other, other / "tokenizer.json"):
        found = files(tmp_path, tokenizer=name, weights=written)
        assert found.path is not None
        assert (tmp_path / found.path).read_bytes() == (other / "tokenizer.json").read_bytes()
        assert (found.template, found.words, found.stop_ids) == (None, {}, ())


def test_templates(written: Path, tmp_path: Path) -> None:
    several = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    for given, template in ((several, "d"), (several[:1], None), (5, None), ([5], None)):
        settings(written, chat_template=given)
        assert files(tmp_path, written).template == template
    (written / "chat_template.jinja").write_text("beside", encoding="utf-8")
    assert files(tmp_path, written).template == "beside"


def test_files_that_cannot_be_read(written: Path, tmp_path: Path) -> None:
    settings(written)
    for name, text, said in (
        ("tokenizer_config.json", "{", "not readable"),
        ("tokenizer_config.json", "[]", "not a mapping"),
        ("tokenizer.json", "{}", "not a readable tokenizer.json"),
        ("tokenizer.json", None, "not readable"),
    ):
        path = written / name
        before = path.read_text()
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        with pytest.raises(UserError, match=said) as caught:
            files(tmp_path, written)
        assert str(caught.value).startswith("generation.tokenizer: ")
        path.write_text(before)
    files(tmp_path, written)


def test_tokens_that_end_a_text_are_those_of_both_configs() -> None:
    def model(generation: Any, config: Any) -> Any:
        return SimpleNamespace(
            generation_config=SimpleNamespace(eos_token_id=generation), config=SimpleNamespace(eos_token_id=config)
        )

    assert stop_ids_of(model([5, 2], 7)) == (2, 5, 7)
    assert stop_ids_of(model(None, 7)) == (7,)
    assert stop_ids_of(model(None, [None, -1])) == ()
    assert stop_ids_of(object()) == ()
