"""The sweep: ends runs whose time is over, and brings back runs that nobody executes."""

import asyncio
import logging
from datetime import UTC, datetime
from itertools import count

from assistants.domain.ports import QueuedRun, RequestIds, RunQueue, RunStore
from assistants.domain.run_states import RunState
from assistants.runs.executor import RunExecutor

INTERVAL_S = 1.0
_SWEEPS_TO_FORGET = 600

_logger = logging.getLogger(__name__)


class Sweep:
    """Looks at the rows of active runs once a second."""

    def __init__(
        self, *, store: RunStore, queue: RunQueue, executor: RunExecutor, requests: RequestIds
    ) -> None:
        self._store = store
        self._queue = queue
        self._executor = executor
        self._requests = requests
        self._abandoned: frozenset[str] = frozenset()

    async def recover(self) -> int:
        """Queues what a server before this one left unfinished; gives how many runs."""
        unfinished = await self._store.unfinished()
        for run_id in unfinished:
            await self._queue.put(QueuedRun(run_id=run_id, takeover=True))
        return len(unfinished)

    async def run(self) -> None:
        """Sweeps until cancelled."""
        for number in count(1):
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.once()
                if number % _SWEEPS_TO_FORGET == 0:
                    await self._requests.forget_old()
            except Exception:
                # A store that is gone for a while must not end the sweep.
                _logger.exception("sweep failed")

    async def once(self) -> None:
        """One look."""
        for run in await self._store.overdue(datetime.now(UTC)):
            if run.id in self._executor.executing:
                self._executor.stop(run.id)
            elif run.status.state in (RunState.QUEUED, RunState.REQUIRES_ACTION):
                await self._store.end_idle(run.project_id, run.id, expired=True)
        # A run may be between its claim and its launch: only one seen twice is abandoned.
        idle = frozenset(await self._store.unfinished()) - self._executor.executing
        for run_id in idle & self._abandoned:
            await self._queue.put(QueuedRun(run_id=run_id, takeover=True))
        self._abandoned = idle
