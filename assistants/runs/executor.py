"""The run executor: takes runs while slots are free, and sees each to its end."""

import asyncio
import logging
from datetime import UTC, datetime

from assistants.domain.errors import Fenced
from assistants.domain.names import run_name
from assistants.domain.ports import Claim, EventLog, QueuedRun, RunQueue, RunStore
from assistants.domain.run import Run
from assistants.domain.run_states import RunState
from assistants.runs.context import ThreadContexts
from assistants.runs.execution import Execution, TurnLost
from assistants.telemetry.observer import AttemptSpan, RunTelemetry
from runtime.engines.base import Engine

MAX_FRUITLESS_ATTEMPTS = 5
"""Attempts without a completed step after which a run fails."""

_logger = logging.getLogger(__name__)


class RunExecutor:
    """Executes runs of all projects on this node."""

    def __init__(
        self,
        *,
        store: RunStore,
        event_log: EventLog,
        queue: RunQueue,
        contexts: ThreadContexts,
        engine: Engine,
        telemetry: RunTelemetry,
        slots: int,
    ) -> None:
        self._store = store
        self._event_log = event_log
        self._queue = queue
        self._contexts = contexts
        self._engine = engine
        self._telemetry = telemetry
        self._free = slots
        self._slot_freed = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping: set[str] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._draining = False

    @property
    def executing(self) -> frozenset[str]:
        """Ids of the runs that are being executed here."""
        return frozenset(self._tasks)

    def start(self) -> None:
        """Begins to take runs from the queue."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="run dispatcher")

    def reserve(self) -> bool:
        """Takes a free slot, for a run that is about to be created; then `launch` or `release`."""
        if self._free == 0 or self._draining:
            return False
        self._free -= 1
        return True

    def release(self) -> None:
        """Gives a reserved slot back."""
        self._free += 1
        self._slot_freed.set()

    def launch(self, claim: Claim, *, stored: asyncio.Task[Run] | None = None) -> None:
        """Executes a claimed run in the reserved slot, after `stored` if that is given."""
        run_id = claim.run.id
        if self._draining:  # since the slot was reserved
            self._store.let_go(claim.fence)
            self.release()
            return
        task = asyncio.create_task(self._execute(claim, stored), name=f"run {run_id}")
        self._tasks[run_id] = task
        # Not in the task: one that is cancelled before its first step runs nothing of itself.
        task.add_done_callback(lambda _: self._forget(run_id))

    async def left(self, run_id: str) -> None:
        """Waits until a run that has paused is no longer being executed here: a moment after the pause."""
        if (task := self._tasks.get(run_id)) is not None:
            await asyncio.wait((task,))

    def stop(self, run_id: str) -> None:
        """Makes the execution look at the run's state and end accordingly, if it is here."""
        task = self._tasks.get(run_id)
        if task is not None and run_id not in self._stopping:
            self._stopping.add(run_id)  # a second stop would interrupt the end itself
            task.cancel()

    async def drain(self, grace_s: float) -> None:
        """Takes no more runs, gives those in hand `grace_s` to end, and lets go of the rest.

        A run that is let go stays in progress; the next server takes it over.
        """
        self._draining = True
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            await asyncio.wait([self._dispatcher])
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace_s)
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _dispatch(self) -> None:
        while True:
            queued = await self._queue.take()
            while not self.reserve():
                self._slot_freed.clear()
                await self._slot_freed.wait()
            await self._claim(queued)

    async def _claim(self, queued: QueuedRun) -> None:
        """Launches a run in the reserved slot, unless it needs nobody any more."""
        if queued.run_id in self._tasks:  # queued twice, and taken meanwhile
            self.release()
            return
        claim: Claim | None = None
        try:
            claim = await self._store.claim(queued.run_id, takeover=queued.takeover)
        except Exception:
            # The row is still as it was, so the sweep will bring the run again.
            _logger.exception("cannot claim %s", queued.run_id)
        if claim is None:
            self.release()
        else:
            self.launch(claim)

    async def _execute(self, claim: Claim, stored: asyncio.Task[Run] | None) -> None:
        """Attempts until the run has ended, paused, or is somebody else's."""
        if stored is not None:
            await asyncio.wait((stored,))
            if stored.exception() is not None:  # told to whoever created the run
                return
        next_claim: Claim | None = claim
        lost: TurnLost | None = None
        while next_claim is not None:
            try:
                await self._attempt(next_claim, lost)
                return
            except TurnLost as error:
                lost = error
            next_claim = await self._store.claim(claim.run.id, takeover=True)

    def _forget(self, run_id: str) -> None:
        del self._tasks[run_id]
        self._stopping.discard(run_id)
        self.release()

    async def _attempt(self, claim: Claim, lost: TurnLost | None) -> None:
        """One attempt, after `lost` if there was one before. Raises TurnLost when it needs another."""
        span = self._telemetry.start_attempt(claim)
        execution = Execution(
            claim,
            store=self._store,
            event_log=self._event_log,
            contexts=self._contexts,
            engine=self._engine,
            observer=span.observer,
        )
        failure: Exception | None = None
        try:
            if span.traceparent is not None:
                self._store.set_attempt_traceparent(claim.fence, span.traceparent)
            await self._carry_out(claim, execution, lost)
        except TurnLost as error:
            failure = error
            raise
        except Exception as error:  # noqa: BLE001 - the last resort of a run: recorded, and told by its state
            failure = error
            await self._give_up(execution, error)
        finally:
            _end_span(span, execution, failure)

    async def _carry_out(self, claim: Claim, execution: Execution, lost: TurnLost | None) -> None:
        try:
            if claim.run.status.state is RunState.CANCELLING:
                await execution.stop(RunState.CANCELLED)
            elif claim.fruitless_attempts >= MAX_FRUITLESS_ATTEMPTS:
                reason = f": {lost}" if lost else ""
                await execution.fail(f"gave up after {MAX_FRUITLESS_ATTEMPTS} attempts{reason}")
            else:
                await execution.drive()
        except asyncio.CancelledError:
            if self._draining:
                self._store.let_go(claim.fence)
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            await self._settle(execution)
        except Fenced:
            await self._settle(execution)

    async def _settle(self, execution: Execution) -> None:
        """Ends a run that was stopped as its row says; leaves one that somebody else has."""
        run = await self._store.get(execution.run.project_id, execution.run.id)
        if run is None:
            return
        expire_time = run.status.expire_time
        try:
            if run.status.state is RunState.CANCELLING:
                await execution.stop(RunState.CANCELLED)
            elif (
                run.status.state is RunState.IN_PROGRESS and expire_time and expire_time <= datetime.now(UTC)
            ):
                await execution.stop(RunState.EXPIRED)
        except Fenced:
            _logger.info("%s has a newer attempt", run_name(run.thread_id, run.id))

    async def _give_up(self, execution: Execution, error: Exception) -> None:
        name = run_name(execution.run.thread_id, execution.run.id)
        _logger.error("%s failed", name, exc_info=error)
        try:
            await execution.fail("the server had an internal error")
        except Exception:
            # The store is gone, or the run is not ours: the sweep will find what is left.
            _logger.exception("cannot record the failure of %s", name)


def _end_span(span: AttemptSpan, execution: Execution, failure: Exception | None) -> None:
    status = execution.outcome or execution.status
    span.end(state=status.state, error=failure or status.error, finish_reason=execution.finish_reason)
