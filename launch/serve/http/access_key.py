"""The API key, and whether a request has it."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgelaunch.common.secret import LEAST_BYTES, read_private

__all__ = ["VARIABLE", "find_key", "has_key"]

VARIABLE = "EDGELAUNCH_API_KEY"
HOW = f"openssl rand -hex 32, in the variable {VARIABLE} or in a file for --api-key-file"


def find_key(file: Path | None, environ: Mapping[str, str]) -> bytes | None:
    """Of `--api-key-file`, else of the environment; None: none is asked for.

    Raises:
        UserError: it is too short, or in a file that others can read.
    """
    if file is not None:
        key, where = read_private(file, "the API key"), str(file)
    elif environ.get(VARIABLE):
        key, where = environ[VARIABLE].strip().encode(), VARIABLE
    else:
        return None
    if len(key) < LEAST_BYTES:
        raise UserError(f"the API key has {len(key)} bytes, expected {LEAST_BYTES} or more", key=where, fix=HOW)
    return key


def has_key(key: bytes, authorization: bytes) -> bool:
    """In a time that does not depend on how much of it is right. `authorization`: the header, `Bearer KEY`."""
    scheme, _, given = authorization.partition(b" ")
    return hmac.compare_digest(given.strip(), key) and scheme.lower() == b"bearer"
