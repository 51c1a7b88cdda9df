"""Who executes runs: this server alone, or whichever of a cluster has free slots."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from assistants.config import DRAIN_GRACE_S, ServerConfig
from assistants.domain.errors import BrokerError
from assistants.domain.ports import EventLog, LiveEvents, RunQueue, Signals
from assistants.runs.executor import RunExecutor
from assistants.runs.queue import MemoryRunQueue
from assistants.runs.sweep import Sweep
from assistants.runs.watch import Watch
from runtime.engines.base import Engine

_logger = logging.getLogger(__name__)


class Dispatch(Protocol):
    """What the parts of a server need to share work, or to keep it."""

    @property
    def queue(self) -> RunQueue:
        """Where runs wait."""
        ...

    @property
    def live(self) -> LiveEvents | None:
        """What other servers append; None when there are none."""
        ...

    @property
    def grace_s(self) -> float:
        """How long runs in hand may go on when this server stops."""
        ...

    @property
    def reached(self) -> bool | None:
        """Whether the broker answers; None when there is none."""
        ...

    def signals(self, executor: RunExecutor) -> Signals:
        """How a run is stopped, wherever it is executed."""
        ...

    async def start(self, *, event_log: EventLog, sweep: Sweep, watch: Watch) -> None:
        """Begins to bring runs. Raises BrokerError."""
        ...


class _Alone:
    """All in this process."""

    def __init__(self, *, remote_database: bool) -> None:
        self.queue = MemoryRunQueue()
        self.live = None
        self.grace_s = DRAIN_GRACE_S
        self.reached = None
        self._remote_database = remote_database
        self._looking: asyncio.Task[None] | None = None

    def signals(self, executor: RunExecutor) -> Signals:
        return executor

    async def start(self, *, event_log: EventLog, sweep: Sweep, watch: Watch) -> None:
        recovered = await sweep.recover()
        if recovered:
            _logger.info("taking up %d unfinished runs", recovered)
        if self._remote_database:
            # Events may be stored and not told: their commit was done, and its answer lost.
            self._looking = asyncio.create_task(watch.look_into_silence(), name="watch")

    def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()


@asynccontextmanager
async def dispatch(config: ServerConfig, engine: Engine, *, slots: int) -> AsyncIterator[Dispatch]:
    """What the configuration asks for; with NATS, once that answers. Raises BrokerError."""
    if config.nats_url is None:
        alone = _Alone(remote_database=config.database_url is not None)
        try:
            yield alone
        finally:
            alone.close()
        return
    try:
        from assistants.server.cluster import Together
    except ModuleNotFoundError as error:
        raise BrokerError("NATS needs its client. Run: pip install 'assistants-runtime[cluster]'") from error
    async with Together(config.nats_url, engine, slots=slots) as together:
        yield together
