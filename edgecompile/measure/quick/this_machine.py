"""Tells the kinds of device that are this machine, and that profile=auto can measure here."""

from __future__ import annotations

import ipaddress
import platform
import socket

import torch

from edgecompile.config.cluster_spec import Cluster, Device
from edgecompile.contract.closed_sets import Execution

__all__ = ["busy_beside", "is_here", "own_address"]


def is_here(device: Device, cluster: Cluster) -> bool:
    """Whether a host of this kind has an address of this machine, and what it computes on is there."""
    if device.execution is Execution.CUDA and not torch.cuda.is_available():
        return False
    return any(host.device == device.name and own_address(host.address) for host in cluster.hosts)


def own_address(address: str) -> bool:
    """Loopback, this machine's name, or what a socket may be bound to here. Asks no name server."""
    if address in ("localhost", platform.node()):
        return True
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if found.is_loopback:
        return True
    if found.is_unspecified or found.is_multicast:
        return False
    try:
        with socket.socket(socket.AF_INET6 if found.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def busy_beside(cluster: Cluster, cores: int, threads: int) -> int:
    """Cores that the other ranks of this machine keep busy while one computes."""
    ranks = sum(own_address(host.address) for host in cluster.hosts)
    return max(0, min(ranks * threads, cores) - threads)
