"""Boards that announce themselves by mDNS, through the package zeroconf. Imports no torch.

What is found is not believed: every address is asked for a proof of the secret before anything else.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from edgecompile.contract.errors import UserError
from edgelaunch.common.addresses import Address

if TYPE_CHECKING:
    from zeroconf import ServiceInfo

__all__ = ["check_zeroconf", "announced", "announcing", "own_addresses"]

SERVICE = "_edgelaunch._tcp.local."
AGAIN_S = 10.0
"""An agent looks so often whether its addresses have changed."""
ASK_MS = 1000
MOST_NAME_BYTES = 50


def check_zeroconf(without: str) -> None:
    """Raises UserError where zeroconf is not installed. `without`: the option that does without."""
    if find_spec("zeroconf") is None:
        raise UserError(
            "boards are found by zeroconf, which is not installed here: pip install 'edgecompile[boards]', or "
            + without
        )


def own_addresses() -> list[str]:
    """Of this machine on its networks, IPv4 first."""
    import ifaddr

    found = [ip.ip if isinstance(ip.ip, str) else ip.ip[0] for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    usable = [text for text in found if not (numeric := ipaddress.ip_address(text)).is_loopback
              and not numeric.is_link_local]  # fmt: skip
    return sorted(dict.fromkeys(usable), key=lambda text: ":" in text)


@contextlib.contextmanager
def announcing(name: str, port: int) -> Iterator[None]:
    """Says that an agent of this name listens at a port, and says so again where the machine's addresses change.

    Raises:
        UserError: the network takes no such messages.
    """
    from zeroconf import Error, Zeroconf

    try:
        known = Zeroconf()
    except (OSError, Error) as error:
        raise UserError(f"mDNS is not possible here ({getattr(error, 'strerror', None) or error}): start the agent "
                        "with --no-mdns, and --join the agent of another board if there is one") from None  # fmt: skip
    over = threading.Event()

    def follow(info: ServiceInfo) -> None:
        told = own_addresses()
        while not over.wait(AGAIN_S):
            now = own_addresses()
            if now != told:
                with contextlib.suppress(OSError, Error):
                    known.update_service(_info(info.name, name, port))
                    told = now

    try:
        plain = "".join(letter if letter.isalnum() else "-" for letter in name).encode()[:MOST_NAME_BYTES]
        info = _info(f"{plain.decode(errors='ignore')}.{SERVICE}", name, port)
        known.register_service(info, allow_name_change=True)
        thread = threading.Thread(target=follow, args=(info,), name="mDNS", daemon=True)
        thread.start()
        yield
    finally:
        over.set()
        known.close()


def _info(full: str, name: str, port: int) -> ServiceInfo:
    from zeroconf import ServiceInfo

    packed = [socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text) for text in own_addresses()]
    server = f"edgelaunch-{secrets.token_hex(4)}.local."  # a host name of our own: mDNS of the system has the machine's
    return ServiceInfo(SERVICE, full, addresses=packed, port=port, properties={"name": name}, server=server)


def announced(wait_s: float) -> list[list[Address]]:
    """The agents that answer within `wait_s`, each with its addresses, the likeliest first.

    Raises:
        UserError: the network takes no such messages.
    """
    from zeroconf import Error, ServiceBrowser, ServiceStateChange, Zeroconf

    names: dict[str, None] = {}

    def heard(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is not ServiceStateChange.Removed:
            names[name] = None

    try:
        known = Zeroconf()
    except (OSError, Error) as error:
        raise UserError(f"mDNS is not possible here ({getattr(error, 'strerror', None) or error}): name a board with "
                        "--join ADDRESS") from None  # fmt: skip
    try:
        browser = ServiceBrowser(known, SERVICE, handlers=[heard])
        time.sleep(wait_s)
        browser.cancel()
        found = []
        for name in list(names):
            info = known.get_service_info(SERVICE, name, timeout=ASK_MS)
            if info is not None and info.port:
                texts = sorted(info.parsed_addresses(), key=lambda text: ":" in text)
                found.append([Address(text, info.port) for text in texts])
        return [addresses for addresses in found if addresses]
    finally:
        known.close()
