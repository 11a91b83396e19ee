"""Finds the overrides that reproduce a config, in a canonical form that plan.yaml records.

What the command line had would not do: the same config can be written in many ways, in a sweep Hydra reorders
the words, and paths depend on the folder. So these are found from the config itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import hydra
import yaml
from omegaconf import DictConfig, OmegaConf

__all__ = ["override_text", "overrides_of"]

_NOT_ASKED = {"output_dir", "hydra", "profile.folder"}
"""Where things lie is not part of what was asked for."""
_PATHS = ("weights", "data.tokenizer", "data.labels", "profile.files.")
"""Of these files the names alone are kept."""
_PLAIN = re.compile(r"[\w./@:-]*[A-Za-z][\w./@:-]*")
_NO_TEXT = re.compile(r"(?i)null|true|false|[+-]?(inf|nan|[\d_.]+e[+-]?\d+)")
"""What needs no quotes, unless Hydra takes it for something else than text."""
_MISSING = object()


Compose = Callable[[Sequence[str]], DictConfig]
"""From overrides to the whole config, Hydra's own section included."""


def overrides_of(
    config: DictConfig, choices: Mapping[str, str | None], compose: Compose | None = None
) -> tuple[str, ...]:
    """The least that gives this config: groups whose option is not the default one, then keys with another value.

    Args:
        config: as composed, without Hydra's own section or with it; unresolved.
        choices: the option of each group, as Hydra tells them.
        compose: None: by Hydra as it is initialised.
    """
    compose = compose or _by_hydra
    groups = _groups(choices)
    base, plain = _composed(compose, groups)
    more = {key: name for key, name in choices.items() if _ours(key) and plain.get(key, _MISSING) != name}
    if more:
        groups = {**groups, **more}
        base, _ = _composed(compose, groups, plain)
    words = [_group_word(key, name, plain) for key, name in groups.items()]
    return (*words, *_differences(_tree(base), _tree(config), ""))


def _groups(choices: Mapping[str, str | None]) -> dict[str, str | None]:
    """The groups whose option is not the one of config.yaml; where an experiment chooses, the experiment alone."""
    text = files("edgecompile.conf").joinpath("config.yaml").read_text(encoding="utf-8")
    defaults = [item for item in yaml.safe_load(text)["defaults"] if isinstance(item, dict)]
    usual = {key: name for item in defaults for key, name in item.items() if not key.startswith("override ")}
    usual["hosts"] = choices.get("devices")
    usual["data"] = choices.get("data")  # the model's affair
    if choices.get("experiment") is not None:
        return {"experiment": choices["experiment"]}
    return {key: choices[key] for key in usual if key in choices and choices[key] != usual[key]}


def _ours(key: str) -> bool:
    return not key.startswith("hydra/")


def _by_hydra(words: Sequence[str]) -> DictConfig:
    return hydra.compose("config", overrides=list(words), return_hydra_config=True)


def _composed(
    compose: Compose, groups: Mapping[str, str | None], known: Mapping[str, str | None] | None = None
) -> tuple[DictConfig, Mapping[str, str | None]]:
    """The config of these options, and the option of each group in it."""
    words = [_group_word(key, name, known) for key, name in groups.items()]
    config = compose(words)
    return config, dict(config.hydra.runtime.choices)


def _group_word(key: str, name: str | None, known: Mapping[str, str | None] | None) -> str:
    """A group that the config's defaults do not have, such as another board, is added."""
    added = "" if known is None or key in known else "+"
    return f"{added}{key}={'null' if name is None else name}"


def _tree(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=False, enum_to_str=True)


def _differences(base: Any, wanted: Any, key: str) -> Iterator[str]:
    """The overrides that turn one mapping into the other, in the order of the second."""
    for name, value in wanted.items():
        path = f"{key}{name}"
        if path in _NOT_ASKED:
            continue
        before = base.get(name, _MISSING)
        if isinstance(before, dict) and before and isinstance(value, dict):
            yield from _differences(before, value, f"{path}.")
        elif before is _MISSING or before != value or type(before) is not type(value):
            yield f"{'+' if before is _MISSING else ''}{path}={override_text(_without_folder(path, value))}"
    for name in base:
        if name not in wanted and f"{key}{name}" not in _NOT_ASKED:
            yield f"~{key}{name}"


def _without_folder(path: str, value: Any) -> Any:
    if not isinstance(value, str) or not path.startswith(_PATHS) or "${" in value or value.startswith("pkg://"):
        return value
    return os.path.basename(os.path.abspath(value))


def override_text(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {override_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(override_text(inner) for inner in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    if not isinstance(value, str) or (_PLAIN.fullmatch(text) and not _NO_TEXT.fullmatch(text)):
        return text
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text) + "'"
