"""Tells which hosts of a cluster can run a plan, and which can only be planned for."""

from __future__ import annotations

from collections.abc import Collection

from edgecompile.config.cluster_spec import Cluster

__all__ = ["OLDEST_PYTHON", "planning_notes"]

OLDEST_PYTHON = (3, 10)


def planning_notes(cluster: Cluster, used: Collection[int]) -> tuple[str, ...]:
    """A sentence for each kind whose system ships a Python that is too old; `used`: the hosts that get work."""
    notes = []
    for device in cluster.devices:
        names = [host.name for index, host in enumerate(cluster.hosts) if index in used and host.device == device.name]
        if names and device.python is not None and device.python < OLDEST_PYTHON:
            shipped, needed = (".".join(map(str, version)) for version in (device.python, OLDEST_PYTHON))
            notes.append(
                f"{', '.join(names)} ({device.name}) can only be planned for: its vendor's system ships Python "
                f"{shipped}, and edgelaunch needs {needed} or newer"
            )
    return tuple(notes)
