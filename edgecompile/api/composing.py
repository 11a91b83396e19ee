"""Composes the compiler's config inside a user's program, whose own use of Hydra it leaves alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from edgecompile.commands.hydra_app import explained_config_error, unreadable_config
from edgecompile.config.composed import to_conf
from edgecompile.config.overrides import override_text, overrides_of
from edgecompile.config.request import CompileRequest, request_of
from edgecompile.contract.errors import UserError

__all__ = ["Cluster", "composed_request", "words_of_keys"]

Cluster = str | Mapping[str, Any]
"""An option's name, or what its YAML file would hold."""

_GIVEN = "given"
"""The option's name where a mapping is given."""


def composed_request(
    words: Sequence[str], devices: Cluster | None, hosts: Cluster | None, config_dir: str | Path | None
) -> tuple[CompileRequest, tuple[str, ...]]:
    """The request that the config makes, and the overrides that a plan records of it.

    Args:
        words: overrides as on the command line.
        devices, hosts: options by name or content; None: the usual.
        config_dir: a folder with more options.

    Raises:
        UserError: as the command does.
    """
    if isinstance(devices, Mapping) and hosts is None:
        raise UserError("hosts is missing", fix="devices is a mapping of kinds: name the hosts, as in a hosts option")
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"config_dir: {config_dir}: no such folder")
    with tempfile.TemporaryDirectory(prefix="edgecompile-") as folder:
        for group, given in (("devices", devices), ("hosts", hosts)):
            if given is not None:
                words = [f"{group}={_option(Path(folder), group, given)}", *words]
        folders = [folder] if config_dir is None else [folder, os.path.abspath(config_dir)]
        with _config_errors():
            return _composed(words, folders)


def _option(folder: Path, group: str, given: Cluster) -> str:
    if isinstance(given, str):
        return override_text(given)
    if not isinstance(given, Mapping):
        raise UserError(f"{group} is of type {type(given).__name__}: expected an option's name or a mapping")
    content = _plain(given, group)
    if group == "devices":
        boards = {name: value for name, value in content.items() if isinstance(value, str)}
        if boards:
            added = [{f"/board@{name}": board} for name, board in boards.items()]
            rest = {name: value for name, value in content.items() if name not in boards}
            content = {**rest, "defaults": [*rest.get("defaults", []), *added]}
    (folder / group).mkdir()
    (folder / group / f"{_GIVEN}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return _GIVEN


def _plain(value: Any, key: str) -> Any:
    """As YAML has it. Raises UserError for what it cannot hold."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner, f"{key}.{name}") for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, f"{key}.{place}") for place, inner in enumerate(value)]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of numpy's
        return value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise UserError(f"{key} is of type {type(value).__name__}: expected text, a number, a list or a mapping")


def words_of_keys(keys: Mapping[str, Any]) -> list[str]:
    """Overrides out of keys and Python values: `wire="fp16"`, `**{"schedule.constraints.exclude": ["nano"]}`.

    Raises:
        UserError: a value that no config holds.
    """
    return [f"{key}={override_text(_plain(value, key))}" for key, value in keys.items()]


def _composed(words: Sequence[str], folders: Sequence[str]) -> tuple[CompileRequest, tuple[str, ...]]:
    path = create_config_search_path("pkg://edgecompile.conf")
    for folder in folders:
        path.append("edgecompile.compile", f"file://{folder}", anchor=SearchPathQuery(provider="main"))
    loader = ConfigLoaderImpl(config_search_path=path)

    def compose(overrides: Sequence[str]) -> DictConfig:
        return loader.load_configuration(
            config_name="config", overrides=list(overrides), run_mode=RunMode.RUN, from_shell=False
        )

    with _hydra_base():
        whole = compose(words)
        choices = dict(whole.hydra.runtime.choices)
        with open_dict(whole):
            del whole["hydra"]
        return request_of(to_conf(whole)), overrides_of(whole, choices, compose)


@contextmanager
def _hydra_base() -> Iterator[None]:
    """The rules of Hydra 1.3, whatever the program has chosen for its own configs."""
    held = version.VersionBase.instance()
    before = held.version_base
    version.setbase("1.3")
    try:
        yield
    finally:
        held.version_base = before


@contextmanager
def _config_errors() -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explained_config_error(error)) from error
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        raise UserError(unreadable_config(error)) from error
