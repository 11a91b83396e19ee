"""What the commands that Hydra configures share: the schema, and Hydra's errors in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from edgecompile.errors import UserError, choices
from edgecompile.schema import Conf

__all__ = ["run_app"]

ConfigStore.instance().store(name="edgecompile_schema", node=Conf)


def run_app(app: Callable[[], Any]) -> None:
    """Runs a function that `hydra.main` decorates.

    Raises:
        UserError: the config cannot be composed, or a value has no place in it.
    """
    # Hydra would print several lines and exit with 1; this hands its errors to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        app()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error)) from error


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
