"""Writing a run's journal: at most one append in flight, deltas joined meanwhile."""

import asyncio

from assistants.domain.ports import Fence, RunStore
from assistants.domain.run_event import EventBody, TextDelta


class Journal:
    """Appends the events of one attempt, in order.

    Deltas that arrive while an append is in flight become one event: a fast
    engine makes larger events, not more of them.
    """

    def __init__(self, store: RunStore, fence: Fence) -> None:
        self._store = store
        self._fence = fence
        self._pending: list[EventBody] = []
        self._pump: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    def append(self, *events: EventBody) -> None:
        """Hands events over without waiting. Raises what an earlier append raised, such as Fenced."""
        if self._failure is not None:
            raise self._failure
        for event in events:
            joined = None
            if self._pending and isinstance(last := self._pending[-1], TextDelta):
                joined = last.joined(event)
            if joined is None:
                self._pending.append(event)
            else:
                self._pending[-1] = joined
        if self._pump is None:
            self._pump = asyncio.create_task(self._append_pending())

    async def flush(self) -> None:
        """Waits until all is stored. Raises what an append raised."""
        while self._pump is not None:
            # The pump goes on if whoever waits is cancelled.
            await asyncio.shield(self._pump)
        if self._failure is not None:
            raise self._failure

    async def _append_pending(self) -> None:
        try:
            while self._pending:
                events, self._pending = self._pending, []
                await self._store.append(self._fence, events)
        except Exception as error:  # noqa: BLE001 - raised by the next append or flush
            self._failure = error
            self._pending = []
        finally:
            self._pump = None
