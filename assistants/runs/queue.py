"""The queue of an embedded server: in memory, since the rows are its truth."""

import asyncio
from collections import Counter

from assistants.domain.ports import QueuedRun


class MemoryDelivery:
    """A run in hand."""

    def __init__(self, queue: "MemoryRunQueue", run: QueuedRun, *, tries: int) -> None:
        self.run_id = run.run_id
        self.takeover = run.takeover
        self.tries = tries
        self._queue = queue
        self._open = True

    async def ack(self) -> None:
        """It needs nobody."""
        self.drop()

    async def nak(self, delay_s: float = 0.0) -> None:
        """Queues it again, after a delay."""
        if self._open:
            self.drop()
            self._queue.give_back(self, delay_s)

    def drop(self) -> None:
        """Ends this delivery; says nothing."""
        if self._open:
            self._open = False
            self._queue.ended(self)


class MemoryRunQueue:
    """RunQueue in memory. What is lost with the process is put back from the rows at start."""

    shared = False

    def __init__(self) -> None:
        self._queue: asyncio.Queue[MemoryDelivery] = asyncio.Queue()
        self._waiting: set[str] = set()
        self._in_hand: Counter[str] = Counter()
        self._draining = False

    async def put(self, queued: QueuedRun, *, again: bool = False) -> None:
        """Adds one; one that waits already is not added twice."""
        self._add(queued, tries=1)

    async def take(self) -> MemoryDelivery:
        """Waits for the oldest."""
        delivery = await self._queue.get()
        self._waiting.discard(delivery.run_id)
        self._in_hand[delivery.run_id] += 1
        return delivery

    async def has(self, run_id: str) -> bool:
        """Whether a run waits or is in hand."""
        return run_id in self._waiting or self._in_hand[run_id] > 0

    async def drain(self) -> None:
        """Adds no more; the next server finds all in the rows."""
        self._draining = True

    @property
    def empty(self) -> bool:
        """Whether none waits."""
        return not self._waiting

    def give_back(self, delivery: MemoryDelivery, delay_s: float) -> None:
        """Adds what was in hand, after a delay in which it waits."""
        again = QueuedRun(run_id=delivery.run_id, takeover=True)
        if delay_s <= 0:
            self._add(again, tries=delivery.tries + 1)
        elif again.run_id not in self._waiting:
            self._waiting.add(again.run_id)
            delayed = MemoryDelivery(self, again, tries=delivery.tries + 1)
            asyncio.get_running_loop().call_later(delay_s, self._queue.put_nowait, delayed)

    def ended(self, delivery: MemoryDelivery) -> None:
        """Forgets what was in hand."""
        self._in_hand[delivery.run_id] -= 1
        if not self._in_hand[delivery.run_id]:
            del self._in_hand[delivery.run_id]

    def _add(self, queued: QueuedRun, *, tries: int) -> None:
        if queued.run_id not in self._waiting and not self._draining:
            self._waiting.add(queued.run_id)
            self._queue.put_nowait(MemoryDelivery(self, queued, tries=tries))
