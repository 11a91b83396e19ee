"""An address and a port, as a word of a command line."""

from __future__ import annotations

from dataclasses import dataclass

from edgecompile.contract.errors import UserError

__all__ = ["LOOPBACK", "Address", "read_address", "read_port"]

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    host: str
    """A name or a number; IPv6 without brackets."""
    port: int

    def __str__(self) -> str:
        """As `read_address` reads it."""
        bare = self.host[:1].isalnum() and not set(self.host) & set(":[]")
        return f"{self.host}:{self.port}" if bare else f"[{self.host}]:{self.port}"


def read_address(what: str, text: str) -> Address:
    """ADDRESS:PORT. `what` names it in the UserError that is raised where the text is something else."""
    address = _split(text)
    if address is None:
        raise UserError(f"invalid value {text!r} for {what}: expected ADDRESS:PORT, such as 192.168.1.10:29500")
    return address


def read_port(what: str, text: str) -> Address:
    """PORT on loopback, or ADDRESS:PORT; else as `read_address`."""
    address = _split(text if ":" in text else f"{LOOPBACK}:{text}")
    if address is None:
        raise UserError(f"invalid value {text!r} for {what}: expected PORT, or ADDRESS:PORT such as 0.0.0.0:9400")
    return address


def _split(text: str) -> Address | None:
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        return None
    return Address(host, int(port))
