"""Who gets a slot next: by priority, then by arrival."""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from runtime.errors import EngineOverloaded
from runtime.types import Priority

_RANKS = {Priority.INTERACTIVE: 0, Priority.BATCH: 1}


class SlotQueue:
    """A bounded, cancellable queue in front of a fixed number of slots.

    Waiting happens here and not in native code, where it could neither be
    ordered nor cancelled.
    """

    def __init__(self, slots: int, *, length: int) -> None:
        """Args give the number of slots, and how many may wait for one."""
        self._free = slots
        self._length = length
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return self._free

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return sum(1 for *_, turn in self._waiters if not turn.done())

    @asynccontextmanager
    async def slot(self, priority: Priority) -> AsyncIterator[None]:
        """Holds a slot for the body, after waiting for one.

        Raises:
            EngineOverloaded: too many wait already.
        """
        await self._acquire(priority)
        try:
            yield
        finally:
            self._release()

    @asynccontextmanager
    async def slots(self, priority: Priority, *, most: int) -> AsyncIterator[int]:
        """Holds a slot for the body, after waiting for one, and with it those that are free, up to `most`.

        Raises:
            EngineOverloaded: too many wait already.
        """
        await self._acquire(priority)
        held = 1 + min(most - 1, self._free)
        self._free -= held - 1
        try:
            yield held
        finally:
            for _ in range(held):
                self._release()

    async def _acquire(self, priority: Priority) -> None:
        if self._free > 0:
            self._free -= 1
            return
        waiting = self.waiting
        if waiting >= self._length:
            raise EngineOverloaded(f"No slot is free and {waiting} requests wait already.")
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiters, (_RANKS[priority], next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The slot was handed over in the same moment: it must not get lost.
                self._release()
            raise

    def _release(self) -> None:
        while self._waiters:
            *_, turn = heapq.heappop(self._waiters)
            if not turn.done():
                # Handed over, not freed: a newcomer cannot overtake the one that wakes up.
                turn.set_result(None)
                return
        self._free += 1
