"""Statistics of a pipeline that runs in an application. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgecompile.contract.run_record import Percentiles
from edgelaunch.control.pipeline_state import ABSENT, Event, PipelineState

__all__ = ["Event", "Statistics"]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a pipeline has counted up to now."""

    num_items: int
    """Whose results came; rows of messages where text is generated."""
    num_in_flight: int
    """Items that were fed and have no result yet; texts that have a slot."""
    num_waiting: int
    """Items that were submitted or drawn, and not fed yet."""
    items_per_s: float | None
    """Over the last ten seconds; None before there is a rate."""
    predicted_items_per_s: float
    """By the plan as it runs now."""
    latency: Percentiles | None
    """From feeding an item to its result; None where there were none."""
    num_epochs: int
    """How often the ranks were connected."""
    num_ranks: int
    """That are present, rank 0 included."""
    busy: Mapping[str, float | None]
    """The share of the last ten seconds that each host computed, by its name; None where nothing is known yet."""
    received_bytes_per_s: Mapping[str, float | None]
    """Likewise, what it received from other ranks."""

    @staticmethod
    def of(state: PipelineState, predicted_items_per_s: float, num_waiting: int) -> Statistics:
        present = [host for host in state.hosts if host.state not in ABSENT]
        return Statistics(
            num_items=state.num_items, num_in_flight=state.num_in_flight, num_waiting=num_waiting,
            items_per_s=state.items_per_s, predicted_items_per_s=predicted_items_per_s, latency=state.latency,
            num_epochs=state.epoch, num_ranks=len(present), busy={host.name: host.busy for host in present},
            received_bytes_per_s={host.name: host.received_bytes_per_s for host in present},
        )  # fmt: skip
