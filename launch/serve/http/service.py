"""The state of the HTTP service that its routes share."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from edgecompile.contract.errors import UserError
from edgelaunch.application.running import Running
from edgelaunch.common.failures import RankFailedError
from edgelaunch.serve.http.admission import Admission
from edgelaunch.serve.http.api_error import ApiError
from edgelaunch.serve.http.request_counts import RequestCounts

if TYPE_CHECKING:
    from edgelaunch.control.supervisor import Supervisor

__all__ = ["Service", "Settings", "refused", "unavailable"]

PREPARING = 2
"""Threads that decode bodies: images take memory as well as time."""
BODIES = 4
"""So many of the largest bodies are held at once."""
LEAST_BODY_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    max_queue: int
    max_body: int
    """Bytes."""
    request_timeout_s: float
    key: bytes | None = None


class Service:
    def __init__(self, running: Running, settings: Settings) -> None:
        self.running, self.settings = running, settings
        self.name = running.plan.model.name
        self.preparing = ThreadPoolExecutor(PREPARING, "prepare")
        self.admission = Admission(
            most=settings.max_queue, most_bytes=max(LEAST_BODY_BYTES, BODIES * settings.max_body),
            rate_per_s=self._rate_per_s,
        )  # fmt: skip
        self.counts = RequestCounts(self._gauges)
        self._counted = False
        self.begun = int(time.time())
        """Seconds since 1970."""

    @staticmethod
    def of(request: Request) -> Service:
        service: Service = request.app.state.service
        return service

    def check(self) -> None:
        """Raises ApiError 503 where no request can be taken: before all is there, and after the end."""
        try:
            runner = self.running.runner
        except (RankFailedError, RuntimeError) as error:
            raise unavailable(error) from None
        if not runner.streaming.is_set():  # later on a lost rank is a pause, and requests wait
            raise unavailable(RuntimeError("the ranks are not connected yet"))
        self._count(runner)

    def check_model(self, name: Any) -> None:
        """Raises ApiError 404 where another model is asked for; nothing means this one."""
        if name is not None and name != self.name:
            raise ApiError(404, f"the model {str(name)[:100]!r} is not here: this service has {self.name}",
                           param="model", code="model_not_found")  # fmt: skip

    def _count(self, runner: Supervisor) -> None:
        if not self._counted:
            from edgelaunch.report.metrics import RankCollector

            self._counted = True
            self.counts.registry.register(RankCollector(runner))

    def metrics(self) -> bytes:
        with contextlib.suppress(RankFailedError, RuntimeError):  # there is nothing to count yet
            self._count(self.running.runner)
        return self.counts.text()

    def _rate_per_s(self) -> float:
        generation = self.running.plan.generation
        if generation is not None:
            return generation.predicted.tokens_per_s / max(1, generation.tokens)
        return self.running.plan.predicted.throughput_items_per_s

    def _gauges(self) -> dict[str, tuple[str, float]]:
        return {
            "ready": ("1 while items flow, 0 while the ranks connect", float(self.running.ready)),
            "http_places": ("Items or texts of requests that are under way or wait", float(self.admission.taken)),
            "http_places_most": ("As many are allowed", float(self.admission.most)),
        }


def unavailable(error: BaseException) -> ApiError:
    """Of a pipeline that has failed, is closed or not started."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ApiError(503, f"no results now: {first}", code="unavailable", headers={"Retry-After": "1"})


def refused(error: UserError) -> ApiError:
    """What the user can fix."""
    return ApiError(400, str(error))
