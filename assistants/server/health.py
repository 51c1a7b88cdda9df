"""Health as `grpc.health.v1` tells it, and why it is so in the log."""

import asyncio
import logging

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health

from assistants.runs.sweep import Sweep
from assistants.server.dispatch import Dispatch
from assistants.v1 import run_service_pb2
from runtime.engines.base import Engine

RUN_SERVICE = run_service_pb2.DESCRIPTOR.services_by_name["RunService"].full_name
NATS = "nats"
"""Not serving while the broker is away. Runs are accepted all the same, and wait for it."""
_INTERVAL_S = 0.5
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_logger = logging.getLogger(__name__)


class Health:
    """Keeps the services' states true: "" says the process is alive, the run service that it works."""

    def __init__(
        self, servicer: health.HealthServicer, *, engine: Engine, sweep: Sweep, dispatch: Dispatch
    ) -> None:
        self._servicer = servicer
        self._engine = engine
        self._sweep = sweep
        self._dispatch = dispatch
        self._told: str | None = None

    async def report(self) -> None:
        """Reports until cancelled."""
        await self._servicer.set("", _SERVING)
        while True:
            reason = self._reason()
            await self._servicer.set(RUN_SERVICE, _NOT_SERVING if reason else _SERVING)
            if self._dispatch.reached is not None:
                await self._servicer.set(NATS, _SERVING if self._dispatch.reached else _NOT_SERVING)
            if reason != self._told:
                _logger.warning("not serving: %s", reason) if reason else _logger.info("serving again")
                self._told = reason
            await asyncio.sleep(_INTERVAL_S)

    def _reason(self) -> str | None:
        """Why no run can be executed here."""
        if not self._engine.ready:
            return "the engine is not ready"
        if not self._sweep.store_answers:
            return "the database does not answer"
        return None
