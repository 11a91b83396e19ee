"""Places a rank that has a machine of its own. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from edgelaunch.common.addresses import Address
from edgelaunch.request.started_rank import RankSettings

__all__ = ["AcrossMachines"]


class AcrossMachines:
    """One rank on a machine of its own: it meets the others on the network."""

    def __init__(self, master: Address | None, threads: int | None) -> None:
        self._settings = RankSettings(master=master, threads=threads, loopback=False)

    def prefix(self, rank: int) -> Sequence[str]:
        return []

    def settings(self, rank: int) -> RankSettings:
        return self._settings

    def why_killed(self, rank: int) -> str | None:
        return None
