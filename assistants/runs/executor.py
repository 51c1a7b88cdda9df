"""The run executor: takes runs while slots are free, and sees each to its end."""

import asyncio
import logging
from collections.abc import Awaitable
from functools import partial

from assistants.domain.errors import Unavailable
from assistants.domain.ports import Claim, Delivery, EventLog, QueuedRun, RunQueue, RunStore
from assistants.runs.attempts import Attempts, Outcome
from assistants.runs.context import ThreadContexts
from assistants.telemetry.observer import RunTelemetry
from runtime.engines.base import Engine

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 10.0
_COLLISION_DELAY_S = 1.0

_logger = logging.getLogger(__name__)


class RunExecutor:
    """Executes runs of all projects on this node. Signals of this node end here."""

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
        self._queue = queue
        self._attempts = Attempts(
            store=store,
            event_log=event_log,
            contexts=contexts,
            engine=engine,
            telemetry=telemetry,
            stopped=lambda run_id: run_id in self._stopping,
            let_go=self._let_go,
        )
        self._free = slots
        self._slot_freed = asyncio.Event()
        self._claiming: dict[str, asyncio.Task[None]] = {}
        self._tasks: dict[str, asyncio.Task[bool]] = {}
        self._held: dict[str, list[Delivery]] = {}
        """By run in hand: what has to be answered when it is left."""
        self._stopping: set[str] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._draining = False
        self._handing_on: set[asyncio.Task[None]] = set()
        self._letting_go: list[Awaitable[object]] = []

    def executes(self, run_id: str) -> bool:
        """Whether a run is being executed here."""
        return run_id in self._tasks

    def start(self) -> None:
        """Begins to take runs from the queue."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="run dispatcher")

    def reserve(self) -> bool:
        """Takes a free slot, for a run that is about to be created; then `launch` or `release`.

        Never where the queue is shared: a run that has not passed through it would
        not be missed when this server dies.
        """
        return not self._queue.shared and self._take_slot()

    def release(self) -> None:
        """Gives a reserved slot back."""
        self._free += 1
        self._slot_freed.set()

    def launch(
        self, claim: Claim, *, stored: asyncio.Task[object] | None = None, delivery: Delivery | None = None
    ) -> None:
        """Executes a claimed run in the reserved slot.

        Args:
            claim: the right to it.
            stored: what has to be done before it is executed, if anything; when that fails, it is not.
            delivery: what brought it, if the queue did.
        """
        run_id = claim.run.id
        if delivery is not None:
            self._held[run_id] = [delivery]
        if self._draining:  # since the slot was reserved
            self._let_go(claim)
            self.release()
            return
        task = asyncio.create_task(self._execute(claim, stored), name=f"run {run_id}")
        self._tasks[run_id] = task
        # Not in the task: one that is cancelled before its first step runs nothing of itself.
        task.add_done_callback(partial(self._forget, run_id))

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

        A run that is let go stays in progress; the next server takes it over, at
        once if the queue is shared.
        """
        self._draining = True
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            await asyncio.wait([self._dispatcher])
        await self._queue.drain()
        if self._claiming:
            await asyncio.wait(self._claiming.values())
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace_s)
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        # First: an attempt that is not forgiven counts against the run.
        for error in await asyncio.gather(*self._letting_go, return_exceptions=True):
            if isinstance(error, BaseException):
                _logger.warning("cannot forgive an attempt: %s", error)
        for run_id in list(self._held):
            await self._answer(run_id, Outcome.UNDONE)

    def _let_go(self, claim: Claim) -> None:
        self._letting_go.append(self._store.let_go(claim.fence))

    def _take_slot(self) -> bool:
        if self._free == 0 or self._draining:
            return False
        self._free -= 1
        return True

    async def _dispatch(self) -> None:
        while True:
            delivery = await self._queue.take()
            try:
                while not self._take_slot():
                    self._slot_freed.clear()
                    await self._slot_freed.wait()
            except asyncio.CancelledError:
                await delivery.nak()
                raise
            run_id = delivery.run_id
            if run_id in self._claiming:  # queued twice
                self.release()
                await delivery.nak(_COLLISION_DELAY_S)
                continue
            # Beside each other: where the database is far away, a claim takes a while.
            task = asyncio.create_task(self._claim(delivery), name=f"claim {run_id}")
            self._claiming[run_id] = task
            task.add_done_callback(partial(self._claimed, run_id))

    def _claimed(self, run_id: str, _: asyncio.Task[None]) -> None:
        del self._claiming[run_id]

    async def _claim(self, delivery: Delivery) -> None:
        """Launches a run in the reserved slot, unless it needs nobody any more."""
        launched = False
        try:
            launched = await self._claim_and_launch(delivery)
        except Exception as error:
            # The row is still as it was: whoever takes it next finds it so.
            if isinstance(error, Unavailable):
                _logger.warning("cannot claim %s: %s", delivery.run_id, error)
            else:
                _logger.exception("cannot claim %s", delivery.run_id)
            await delivery.nak(_delay_s(delivery))
        finally:
            if not launched:
                self.release()

    async def _claim_and_launch(self, delivery: Delivery) -> bool:
        run_id = delivery.run_id
        if delivery.takeover and run_id in self._tasks:
            # Who has it has not died: it was frozen, or the queue was. Both are answered in the end.
            self._held.setdefault(run_id, []).append(delivery)
            return False
        claim = await self._store.claim(run_id, takeover=delivery.takeover)
        if claim is None:
            await delivery.ack()
            return False
        await self.left(run_id)  # it was queued, so whoever had it here is about to be done
        self.launch(claim, delivery=delivery)
        return True

    async def _execute(self, claim: Claim, stored: asyncio.Task[object] | None) -> bool:
        """Attempts until the run has ended, paused, or is somebody else's; gives whether it is nobody's."""
        if stored is not None:
            await asyncio.wait((stored,))
            if stored.exception() is not None:  # told to whoever created the run
                return False
        run_id = claim.run.id
        outcome = Outcome.UNDONE
        try:
            outcome = await self._attempts.carry_out(claim)
        except Exception as error:
            if isinstance(error, Unavailable):
                _logger.warning("%s is left as it is: %s", run_id, error)
            else:
                _logger.exception("%s is left as it is", run_id)
        left = outcome is Outcome.UNDONE and run_id not in self._held
        await self._answer(run_id, outcome)
        return left

    async def _answer(self, run_id: str, outcome: Outcome) -> None:
        for delivery in self._held.pop(run_id, ()):
            match outcome:
                case Outcome.SETTLED:
                    await delivery.ack()
                case Outcome.ELSEWHERE:
                    delivery.drop()
                case Outcome.UNDONE:
                    await delivery.nak(0.0 if self._draining else _delay_s(delivery))

    def _forget(self, run_id: str, task: asyncio.Task[bool]) -> None:
        del self._tasks[run_id]
        self._stopping.discard(run_id)
        self.release()
        if not self._draining and (task.cancelled() or task.result()):
            # Stopped before or between its attempts, or left by an outage: another attempt
            # does what its row says.
            again = asyncio.create_task(self._hand_on(run_id), name=f"hand on {run_id}")
            self._handing_on.add(again)
            again.add_done_callback(self._handing_on.discard)

    async def _hand_on(self, run_id: str) -> None:
        if run_id in self._held:
            await self._answer(run_id, Outcome.UNDONE)
        else:
            await self._queue.put(QueuedRun(run_id=run_id, takeover=True))


def _delay_s(delivery: Delivery) -> float:
    """Longer with each try: what failed may take its time."""
    return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(delivery.tries, 10))
