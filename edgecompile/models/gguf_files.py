"""Language models in GGUF files (llama.cpp's), as transformers reads them: config, weights and tokenizer."""

from __future__ import annotations

import copy
import functools
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch

from edgecompile.contract.errors import UserError

__all__ = ["gguf_config", "gguf_tensors", "gguf_tokenizer", "is_gguf"]


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" and path.is_file()


def gguf_config(path: Path) -> Any:
    """The config of transformers that the file describes. Raises UserError."""
    return copy.deepcopy(_config_in(path))


@functools.lru_cache(maxsize=1)
def _config_in(path: Path) -> Any:
    """To read a file's head takes seconds: a vocabulary is in it."""
    import transformers

    with _explained(path):
        return transformers.AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)


def gguf_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The weights by their names in transformers, in float32, whatever their bits were. Raises UserError."""
    import transformers

    config = gguf_config(path)
    with _explained(path):
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        found = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    return {name: value.detach().to(torch.float32) for name, value in found.items()}


def gguf_tokenizer(path: Path) -> tuple[str, dict[str, Any]]:
    """tokenizer.json, and what tokenizer_config.json says of special tokens and the chat template."""
    import transformers

    with _explained(path), tempfile.TemporaryDirectory() as folder:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(path.parent), gguf_file=path.name, local_files_only=True
        )
        tokenizer.save_pretrained(folder)
        text = (Path(folder) / "tokenizer.json").read_text(encoding="utf-8")
        settings: dict[str, Any] = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
        beside = Path(folder) / "chat_template.jinja"
        if beside.is_file():
            settings["chat_template"] = beside.read_text(encoding="utf-8")
    return text, settings


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        with redirect_stderr(io.StringIO()):  # its progress bars
            yield
    except ImportError as error:
        raise UserError(
            f"{path}: transformers reads GGUF with the packages gguf and accelerate: pip install gguf accelerate "
            f"({str(error).strip().splitlines()[0]})"
        ) from None
    except Exception as error:  # whatever a damaged file makes of transformers and gguf
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a GGUF file that transformers can read: {first}") from None
