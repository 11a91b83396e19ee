"""Shared by the Hydra commands: registers the schema and turns Hydra's errors into one line."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import EnumNode, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from edgecompile.config.schema import Conf
from edgecompile.contract.errors import UserError, choices, nearest

__all__ = ["explained_config_error", "job", "run_app", "unreadable_config"]

R = TypeVar("R")

ConfigStore.instance().store(name="edgecompile_schema", node=Conf)


class _State:
    """Of the command that runs: what its job ended with, and whether it came so far."""

    composed = False
    error: Exception | None = None


def job(function: Callable[[Any], R]) -> Callable[[Any], R | None]:
    """For the function that `hydra.main` decorates: the user's errors wait for `run_app`.

    Hydra would print a line of its own for each. An exception of YAML's is the user's while configs are composed, and
    ours once the function has begun.
    """

    @functools.wraps(function)
    def run(config: Any) -> R | None:
        _State.composed = True
        try:
            return function(config)
        except (UserError, OmegaConfBaseException, ModuleNotFoundError) as error:
            _State.error = error
            return None

    return run


def run_app(app: Callable[[], Any]) -> None:
    """Runs a function that `hydra.main` and `job` decorate.

    Raises:
        UserError: the job's, or the config cannot be read or composed, or a value has no place in it.
    """
    sys.argv[1:] = [_quoted(word) for word in sys.argv[1:]]
    # Hydra would print several lines and exit with 1; this hands its errors to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _State.composed, _State.error = False, None
    try:
        app()
        if _State.error is not None:
            raise _State.error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explained_config_error(error)) from error
    except UserError:
        raise
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:  # Unicode errors are ValueErrors
        if _State.composed:
            raise
        raise UserError(unreadable_config(error)) from error


def _quoted(word: str) -> str:
    """An override whose value has letters that Hydra's grammar takes in quotes alone, as paths may, in quotes."""
    key, equals, value = word.partition("=")
    if (
        not equals
        or word.startswith("-")
        or value.isascii()
        or not key.isascii()
        or any(c in value for c in "'\",[]{}()$")
    ):
        return word
    return f'{key}="{value}"'


def unreadable_config(error: Exception) -> str:
    """A config file that cannot be read, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}:{mark.line + 1}:{mark.column + 1}: not a readable config: {error.problem or error.context}"
    if isinstance(error, RecursionError):
        return "a config file is nested too deeply to be read"
    text = " ".join(str(error).split())
    readable = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    return text if readable else f"a config file is not readable YAML: {text}"


def explained_config_error(error: BaseException) -> str:
    """A config error with its cause: Hydra names the override, OmegaConf the reason and the keys that there are."""
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"no option {error.missing_cfg_file}: the options of {group} are {choices(error.options, name)}"
    parts = [" ".join(re.split(r"\n\s+full_key: ", str(error))[0].split())]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            reason = str(cause.msg or cause).splitlines()[0]
            if reason not in parts[0]:
                parts.append(reason)
            keys = getattr(cause.parent_node, "keys", None)
            if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and callable(keys):
                known = choices(keys(), cause.key)
                return f"{cause.full_key or cause.key}: no such key: the keys here are {known}{_elsewhere(cause)}"
            if isinstance(cause.child_node, EnumNode):
                near = nearest(cause.value, cause.child_node.enum_type.__members__)
                parts[-1] += f" (did you mean {' or '.join(near)}?)" if near else ""
            break
        cause = cause.__cause__
    return ": ".join(parts)


def _elsewhere(error: OmegaConfBaseException) -> str:
    """Where the whole config has a key of that name, if nothing like it is here."""
    if nearest(error.key, [str(key) for key in error.parent_node]):
        return ""
    root = error.parent_node._get_root()
    paths = list(_paths(OmegaConf.to_container(root, resolve=False), ""))
    found = [path for path in paths if path.rpartition(".")[2] == error.key] or nearest(error.key, paths)
    return f" (did you mean {' or '.join(found[:3])}?)" if found else ""


def _paths(value: Any, prefix: str) -> Iterator[str]:
    """Every key of a config, with the sections that it is in."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield f"{prefix}{key}"
        if key != "hydra":
            yield from _paths(inner, f"{prefix}{key}.")
