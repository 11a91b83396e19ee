"""Exposes this rank's counters to Prometheus (`--metrics-port`)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgecompile.contract.errors import UserError
from edgelaunch.common.addresses import Address

if TYPE_CHECKING:
    from edgelaunch.control.supervisor import Supervisor

__all__ = ["RankCollector", "check_installed", "serve_metrics"]

NS = 1e-9


def check_installed() -> None:
    """Raises UserError where prometheus_client is not."""
    if find_spec("prometheus_client") is None:
        raise UserError("--metrics-port needs prometheus_client: pip install 'edgecompile[metrics]'")


def serve_metrics(where: Address, runner: Supervisor) -> None:
    """Serves until the process ends.

    Raises:
        UserError: nothing can listen there.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(RankCollector(runner))
    try:
        start_http_server(where.port, where.host, registry)
    except OSError as error:
        raise UserError(f"--metrics-port: nothing can listen at {where.host}:{where.port}: {error.strerror}") from None


class RankCollector:
    """As prometheus_client's collectors: what a rank counts."""

    def __init__(self, runner: Supervisor) -> None:
        self._runner = runner

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        counters = self._runner.counters()
        rank = [str(counters.rank), counters.host]
        seconds = CounterMetricFamily("edgelaunch_stage_seconds", "Where a stage's time went",
                                      labels=("rank", "host", "part"))  # fmt: skip
        done = CounterMetricFamily("edgelaunch_stage_microbatches", "Microbatches computed", labels=("rank", "host"))
        for part, total_ns in counters.stage_ns.items():
            seconds.add_metric([*rank, part], total_ns * NS)
        done.add_metric(rank, counters.num_microbatches)
        received = CounterMetricFamily("edgelaunch_received_bytes", "From other ranks", labels=("rank", "host"))
        received.add_metric(rank, counters.received_bytes)
        yield seconds
        yield done
        yield received
        epoch = GaugeMetricFamily("edgelaunch_generation", "How often the ranks were connected",
                                       labels=("rank", "host"))  # fmt: skip
        epoch.add_metric(rank, counters.epoch)
        yield epoch
        if counters.num_items is not None:
            items = CounterMetricFamily("edgelaunch_items", "Items with results")
            items.add_metric([], counters.num_items)
            yield items
            predicted = GaugeMetricFamily("edgelaunch_predicted_items_per_second", "As the plan says")
            predicted.add_metric([], counters.predicted_items_per_s)
            yield predicted
            present = GaugeMetricFamily("edgelaunch_ranks_present", "Ranks that are present, rank 0 included")
            present.add_metric([], counters.num_ranks)
            yield present
