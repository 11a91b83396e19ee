"""Reads the secret that the ranks share, from the environment or a file. Imports no torch."""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.common.identity import is_loopback

__all__ = ["HOW", "LEAST_BYTES", "VARIABLE", "find_secret", "read_private", "sign", "stated_secret"]

VARIABLE = "EDGELAUNCH_SECRET"
LEAST_BYTES = 16
MOST_BYTES = 4096
HOW = f"openssl rand -hex 32, the same on every host, in the variable {VARIABLE} or in a file for --secret-file"


def find_secret(plan: Plan, master: str, file: Path | None, environ: Mapping[str, str]) -> bytes | None:
    """The secret: of `--secret-file`, else of the environment; None where none is given and none is needed.

    Args:
        master: the address that the ranks meet at; on loopback all of them are on this machine.

    Raises:
        UserError: it is needed and missing, too short, or in a file that others can read.
    """
    if (secret := _given(file, environ)) is not None:
        return secret
    if len(plan.hosts) == 1 or is_loopback(master):
        return None
    raise UserError("ranks on several machines need a shared secret, so that nobody else can join", fix=HOW)


def stated_secret(file: Path | None, environ: Mapping[str, str]) -> bytes:
    """The same for agents, who do nothing without one."""
    secret = _given(file, environ)
    if secret is None:
        raise UserError("boards need a shared secret, so that nobody else can use them", fix=HOW)
    return secret


def sign(secret: bytes, purpose: str, *parts: bytes) -> bytes:
    """An HMAC for what is said before there is a seal. `purpose`: so that it proves nothing anywhere else."""
    text = b"".join(len(part).to_bytes(4, "big") + part for part in (purpose.encode(), *parts))
    return hmac.digest(secret, b"edgelaunch joining\0" + text, "sha256")


def _given(file: Path | None, environ: Mapping[str, str]) -> bytes | None:
    if file is not None:
        return _checked(read_private(file, "the secret"), str(file))
    if environ.get(VARIABLE):
        return _checked(environ[VARIABLE].strip().encode(), VARIABLE)
    return None


def read_private(path: Path, what: str) -> bytes:
    """A file that nobody else can read. Raises UserError where others can, or it cannot be read; `what` it holds."""
    try:
        with open(path, "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise UserError(f"{what} must be in a regular file", key=str(path))
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise UserError(f"others on this machine can read {what}", key=str(path), fix=f"chmod 600 {path}")
            return opened.read(MOST_BYTES + 1).strip()
    except OSError as error:
        raise UserError(f"{what} cannot be read: {error.strerror}", key=str(path)) from None


def _checked(secret: bytes, where: str) -> bytes:
    if not LEAST_BYTES <= len(secret) <= MOST_BYTES:
        problem = f"the secret has {len(secret)} bytes, expected {LEAST_BYTES} or more"
        raise UserError(problem, key=where, fix=HOW)
    return secret
