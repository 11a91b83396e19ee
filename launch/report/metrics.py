"""Exposes this rank's counters to Prometheus (`--metrics-port`)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgecompile.contract.errors import UserError

if TYPE_CHECKING:
    from edgelaunch.control.supervisor import Supervisor

__all__ = ["parse_port", "serve_metrics"]

NS = 1e-9


def parse_port(text: str) -> tuple[str, int]:
    """`PORT` on loopback, or `ADDRESS:PORT`. Raises UserError, also where prometheus_client is not installed."""
    if find_spec("prometheus_client") is None:
        raise UserError("--metrics-port needs prometheus_client: pip install 'edgecompile[metrics]'")
    address, colon, port = text.rpartition(":")
    if not port.isdecimal() or not 1 <= int(port) <= 65535 or (colon and not address):
        raise UserError(
            f"invalid value {text!r} for --metrics-port: expected PORT, or ADDRESS:PORT such as 0.0.0.0:9400"
        )
    return address.strip("[]") or "127.0.0.1", int(port)


def serve_metrics(text: str, runner: Supervisor) -> None:
    """Serves until the process ends.

    Raises:
        UserError: nothing can listen there.
    """
    address, port = parse_port(text)
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_Collector(runner))
    try:
        start_http_server(port, address, registry)
    except OSError as error:
        raise UserError(f"--metrics-port: cannot listen on {address}:{port}: {error.strerror}") from None


class _Collector:
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
