"""The queue of an embedded server: in memory, since the rows are its truth."""

import asyncio

from assistants.domain.ports import QueuedRun


class MemoryRunQueue:
    """RunQueue in memory. What is lost with the process is put back from the rows at start."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[QueuedRun] = asyncio.Queue()
        self._waiting: set[str] = set()

    async def put(self, queued: QueuedRun) -> None:
        """Adds one; one that waits already is not added twice."""
        if queued.run_id not in self._waiting:
            self._waiting.add(queued.run_id)
            self._queue.put_nowait(queued)

    async def take(self) -> QueuedRun:
        """Waits for the oldest."""
        queued = await self._queue.get()
        self._waiting.discard(queued.run_id)
        return queued

    @property
    def empty(self) -> bool:
        """Whether none waits."""
        return not self._waiting
