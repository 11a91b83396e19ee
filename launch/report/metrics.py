"""Exposes this rank's counters to Prometheus (`--metrics-port`)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgecompile.contract.errors import UserError
from edgelaunch.common.addresses import Address

if TYPE_CHECKING:
    from edgelaunch.control.pipeline_state import PipelineState
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
        if counters.rank == 0:
            yield from _of_run(self._runner.state())


def _of_run(state: PipelineState) -> Iterator[Any]:
    """What rank 0 alone knows, as the live page shows it."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    items = CounterMetricFamily("edgelaunch_items", "Items with results")
    items.add_metric([], state.num_items)
    yield items
    predicted = GaugeMetricFamily("edgelaunch_predicted_items_per_second", "As the plan says")
    predicted.add_metric([], state.predicted_per_s)
    yield predicted
    present = GaugeMetricFamily("edgelaunch_ranks_present", "Ranks that are present, rank 0 included")
    present.add_metric([], state.num_present)
    yield present
    busy = GaugeMetricFamily("edgelaunch_busy_share", "Of the last ten seconds, what a host computed",
                             labels=("rank", "host"))  # fmt: skip
    memory = GaugeMetricFamily("edgelaunch_memory_bytes", "Of a rank's process, what no file backs",
                               labels=("rank", "host"))  # fmt: skip
    lost = CounterMetricFamily("edgelaunch_losses", "How often a rank was lost", labels=("rank", "host"))
    for host in state.hosts:
        labels = [str(host.rank), host.name]
        for family, value in ((busy, host.busy), (memory, host.memory_bytes), (lost, host.num_lost)):
            if value is not None:
                family.add_metric(labels, value)
    yield from (busy, memory, lost)
    link_rate = GaugeMetricFamily("edgelaunch_link_bytes_per_second", "Of the last ten seconds, what a link carried",
                                  labels=("source", "destination", "boundary"))  # fmt: skip
    for link in state.links:
        if link.bytes_per_s is not None:
            names = [state.hosts[end].name for end in (link.source, link.destination)]
            link_rate.add_metric([*names, str(link.boundary)], link.bytes_per_s)
    yield link_rate
