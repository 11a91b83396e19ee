"""What the commands that Hydra configures share: the schema, and Hydra's errors in one line."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from edgecompile.errors import UserError, choices
from edgecompile.schema import Conf

__all__ = ["job", "run_app"]

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
        except (UserError, OmegaConfBaseException) as error:
            _State.error = error
            return None

    return run


def run_app(app: Callable[[], Any]) -> None:
    """Runs a function that `hydra.main` and `job` decorate.

    Raises:
        UserError: the job's, or the config cannot be read or composed, or a value has no place in it.
    """
    # Hydra would print several lines and exit with 1; this hands its errors to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _State.composed, _State.error = False, None
    try:
        app()
        if _State.error is not None:
            raise _State.error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error)) from error
    except UserError:
        raise
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:  # Unicode errors are ValueErrors
        if _State.composed:
            raise
        raise UserError(_unreadable(error)) from error


def _unreadable(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}:{mark.line + 1}:{mark.column + 1}: not a readable config: {error.problem or error.context}"
    if isinstance(error, RecursionError):
        return "a config file is nested too deeply to be read"
    return f"a config file is not readable YAML: {' '.join(str(error).split())}"


def _explain(error: BaseException) -> str:
    """A config error with its cause: Hydra names the override, OmegaConf the reason and the keys that there are."""
    parts = [str(error).split("\n\tfull_key")[0]]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            reason = str(cause.msg or cause).splitlines()[0]
            if reason not in parts[0]:
                parts.append(reason)
            keys = getattr(cause.parent_node, "keys", None)
            if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and callable(keys):
                parts.append(f"the keys here are {choices(keys())}")
            break
        cause = cause.__cause__
    return ": ".join(parts)
