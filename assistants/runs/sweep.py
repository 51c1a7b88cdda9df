"""The sweep: ends runs whose time is over, brings back runs that nobody executes, and prunes old events.

Time to expire is time in which a run could have made progress. When the clock was
set, runs get their whole time again, in place of all expiring at once, or never.

Every server of a cluster sweeps: what one does twice, or two do at once, changes nothing.
"""

import asyncio
import logging
import random
from datetime import datetime, timedelta
from itertools import count

from assistants.domain.errors import Unavailable
from assistants.domain.ports import EventRetention, IdleRun, QueuedRun, RequestIds, RunQueue, RunStore
from assistants.domain.run import Run
from assistants.domain.run_states import RunState
from assistants.domain.times import Clock, ClockJumps, SystemClock
from assistants.runs.executor import RunExecutor

INTERVAL_S = 1.0
JITTER = 0.3
"""Servers that were started together do not sweep together."""
WAITING_S = 3.0
"""A run that is queued or cancelling that long should be in the queue, or in hand."""
EXECUTING_S = 15.0
"""As much for one in progress: longer than the queue takes to miss its executor."""
ASK_AGAIN_S = 15.0
"""How long the queue is believed that it has a run."""
PRUNED_AT_ONCE = 5_000
"""Events: more would keep other writes waiting."""
_SWEEPS_TO_FORGET = 600
_SWEEPS_TO_PRUNE = 10

_logger = logging.getLogger(__name__)


class Sweep:
    """Looks at the rows of active runs once a second."""

    def __init__(
        self,
        *,
        store: RunStore,
        queue: RunQueue,
        executor: RunExecutor,
        requests: RequestIds,
        events: EventRetention,
        event_retention: timedelta,
        clock: Clock | None = None,
    ) -> None:
        """Takes the parts; events are kept for `event_retention` after the end of their run."""
        self._store = store
        self._queue = queue
        self._executor = executor
        self._requests = requests
        self._events = events
        self._event_retention = event_retention
        self._clock = clock or SystemClock()
        self._jumps = ClockJumps(self._clock)
        self._more_to_prune = False
        self._queued_until: dict[str, float] = {}
        """By run that the queue has: the time of the loop at which it is asked again."""
        self._failing = False
        self.store_answers = True
        """Whether the store could be read the last time."""

    async def recover(self) -> int:
        """Queues what the only server before this one left unfinished; gives how many runs."""
        unfinished = await self._store.unfinished()
        for run_id in unfinished:
            await self._queue.put(QueuedRun(run_id=run_id, takeover=True))
        return len(unfinished)

    async def run(self) -> None:
        """Sweeps until cancelled."""
        for number in count(1):
            await asyncio.sleep(INTERVAL_S * random.uniform(1 - JITTER, 1 + JITTER))
            try:
                await self.once()
                if self._more_to_prune or number % _SWEEPS_TO_PRUNE == 0:
                    await self.prune()
                if number % _SWEEPS_TO_FORGET == 0:
                    await self._requests.forget_old()
                self._failing = False
            except Unavailable as error:
                if not self._failing:  # once an outage
                    _logger.warning("cannot sweep for now: %s", error)
                self._failing = True
            except Exception:
                # A store that is gone for a while must not end the sweep.
                _logger.exception("sweep failed")

    async def once(self) -> None:
        """One look."""
        now = self._clock.now()
        jump = self._jumps.forward()
        if jump:
            _logger.warning("the clock was set forward by %s", jump)
        try:
            overdue = await self._store.overdue(now)
        except Exception:
            self.store_answers = False
            raise
        self.store_answers = True
        for run in overdue:
            await self._end_overdue(run, now, jump)
        self._jumps.forget()
        await self._bring_back(now)

    async def prune(self) -> None:
        """Deletes some events of runs that ended long ago."""
        pruned = await self._events.prune(self._clock.now() - self._event_retention, at_most=PRUNED_AT_ONCE)
        self._more_to_prune = pruned >= PRUNED_AT_ONCE

    async def _end_overdue(self, run: Run, now: datetime, jump: timedelta) -> None:
        # Later than now: the clock was set back. Later than it was before the jump: set forward.
        if run.status.expire_time is not None and run.status.expire_time > now - jump:
            await self._store.renew(run.project_id, run.id)
        elif self._executor.executes(run.id):
            self._executor.stop(run.id)
        elif run.status.state in (RunState.QUEUED, RunState.REQUIRES_ACTION):
            await self._store.end_idle(run.project_id, run.id, expired=True)

    async def _bring_back(self, now: datetime) -> None:
        idle = await self._store.idle(
            waiting_since=now - timedelta(seconds=WAITING_S),
            executing_since=now - timedelta(seconds=EXECUTING_S),
        )
        ids = {run.run_id for run in idle}
        self._queued_until = {run_id: time for run_id, time in self._queued_until.items() if run_id in ids}
        for run in idle:
            await self._bring_back_one(run)

    async def _bring_back_one(self, run: IdleRun) -> None:
        run_id, time = run.run_id, asyncio.get_running_loop().time()
        if self._executor.executes(run_id):
            if run.state is RunState.CANCELLING:  # the signal was lost
                self._executor.stop(run_id)
        elif self._queued_until.get(run_id, 0.0) <= time:
            if not await self._queue.has(run_id):
                # A message that was lost, or never sent: the row is its truth.
                _logger.info("%s is in no queue: queued again", run_id)
                takeover = run.state is not RunState.QUEUED
                await self._queue.put(QueuedRun(run_id=run_id, takeover=takeover), again=True)
            self._queued_until[run_id] = time + ASK_AGAIN_S
