"""A language model's tokenizer, its template of a conversation, and the tokens that end an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompile.config.generation_request import GenerationRequest
from edgecompile.config.resources import resource_path
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import store
from edgecompile.models.gguf_files import gguf_tokenizer, is_gguf

__all__ = ["TokenizerFiles", "stop_ids_of", "tokenizer_files"]

_WORDS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """See Generation; empty where nothing is there."""

    path: str | None = None
    sha256: str | None = None
    template: str | None = None
    words: dict[str, str] = field(default_factory=dict)
    stop_ids: tuple[int, ...] = ()


def tokenizer_files(asked: GenerationRequest, weights: str | None, folder: Path) -> TokenizerFiles:
    """Copies the tokenizer beside the plan.

    Args:
        weights: where the model's weights are, beside which or in which a tokenizer may be.

    Raises:
        UserError: a tokenizer is named or there, and cannot be read.
    """
    location = asked.tokenizer
    if location is None and weights is not None:
        location = resource_path(weights, "weights")
        if not is_gguf(location):
            location = location if location.is_dir() else location.parent
            if not (location / "tokenizer.json").is_file():
                return TokenizerFiles()
    if location is None:
        return TokenizerFiles()
    text, settings = gguf_tokenizer(location) if is_gguf(location) else _beside(location)
    tokenizer = _checked(text, location)
    path, digest = store(folder / "tokenizer", ".json", lambda temporary: temporary.write_bytes(text.encode("utf-8")))
    words = {name: word for name in _WORDS if (word := _word(settings.get(name))) is not None}
    ends = {tokenizer.token_to_id(words["eos_token"])} if "eos_token" in words else set()
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return TokenizerFiles(
        path=f"tokenizer/{path.name}", sha256=digest, template=template if isinstance(template, str) else None,
        words=words, stop_ids=tuple(sorted(number for number in ends if number is not None)),
    )  # fmt: skip


def stop_ids_of(model: Any) -> tuple[int, ...]:
    """The tokens that end a text, by the model's configs."""
    found: set[int] = set()
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        value = getattr(config, "eos_token_id", None)
        values = value if isinstance(value, (list, tuple)) else [value]
        found |= {item for item in values if isinstance(item, int) and item >= 0}
    return tuple(sorted(found))


def _word(value: Any) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _beside(location: Path) -> tuple[str, dict[str, Any]]:
    folder = location if location.is_dir() else location.parent
    file = location / "tokenizer.json" if location.is_dir() else location
    try:
        text = file.read_text(encoding="utf-8")
        beside = folder / "tokenizer_config.json"
        settings: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
        template = folder / "chat_template.jinja"
        if template.is_file():
            settings["chat_template"] = template.read_text(encoding="utf-8")
        generation = folder / "generation_config.json"
        if generation.is_file():
            json.loads(generation.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"generation.tokenizer: {file}: not readable ({error})") from None
    if not isinstance(settings, dict):
        raise UserError(f"generation.tokenizer: {folder / 'tokenizer_config.json'}: not a mapping")
    return text, settings


def _checked(text: str, location: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise UserError(f"generation.tokenizer: {location}: not a readable tokenizer.json ({error})") from None
