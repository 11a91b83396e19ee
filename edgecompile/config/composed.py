"""Turns what Hydra composed into the schema's dataclasses."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from edgecompile.config.request import check_values
from edgecompile.config.schema import Conf
from edgecompile.config.value_checks import switch

__all__ = ["to_conf"]


def to_conf(config: Any) -> Conf:
    """The composed config as plain dataclasses, with the rules that one key alone can break.

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    from omegaconf import OmegaConf

    conf = OmegaConf.to_object(config)
    assert isinstance(conf, Conf)
    _check_keys(conf, "")
    check_values(conf)
    return conf


def _check_keys(value: object, key: str) -> None:
    """Raises UserError for a key that `+KEY=VALUE` added, and nothing reads."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_keys(inner, f"{key}.{name}")
    if not is_dataclass(value):
        return
    known = {item.name for item in fields(value)}
    for name, inner in vars(value).items():
        path = f"{key}.{name}".lstrip(".")
        switch(name, known, path.rpartition(".")[0])
        _check_keys(inner, path)
