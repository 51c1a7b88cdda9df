"""Writing a run's journal: at most one append in flight, deltas joined meanwhile."""

import asyncio
from dataclasses import replace

from assistants.domain.ports import Fence, RunStore
from assistants.domain.run_event import EventBody, TextDelta, ToolCallDelta

_Delta = TextDelta | ToolCallDelta


class _Growing:
    """A delta that waits, and whatever of its part comes meanwhile."""

    __slots__ = ("_first", "_part", "_pieces")

    def __init__(self, first: _Delta) -> None:
        self._first = first
        self._part = _part(first)
        self._pieces = [_piece(first)]

    def takes(self, delta: _Delta) -> bool:
        if _part(delta) != self._part:
            return False
        self._pieces.append(_piece(delta))
        return True

    def whole(self) -> _Delta:
        text = "".join(self._pieces)
        if isinstance(self._first, TextDelta):
            return replace(self._first, text=text)
        return replace(self._first, arguments_json=text)


def _part(delta: _Delta) -> tuple[str, int, bool]:
    """What a delta adds to."""
    if isinstance(delta, TextDelta):
        return delta.message_id, delta.index, delta.reasoning
    return delta.step_id, delta.index, False


def _piece(delta: _Delta) -> str:
    return delta.text if isinstance(delta, TextDelta) else delta.arguments_json


class Journal:
    """Appends the events of one attempt, in order.

    Deltas that arrive while an append is in flight become one event: a fast
    engine makes larger events, not more of them.
    """

    def __init__(self, store: RunStore, fence: Fence) -> None:
        self._store = store
        self._fence = fence
        self._pending: list[EventBody | _Growing] = []
        self._pump: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    def append(self, *events: EventBody) -> None:
        """Hands events over, if any, without waiting.

        Raises what an earlier append raised, such as Fenced.
        """
        if self._failure is not None:
            raise self._failure
        for event in events:
            if not isinstance(event, _Delta):
                self._pending.append(event)
            elif not (
                self._pending and isinstance(last := self._pending[-1], _Growing) and last.takes(event)
            ):
                self._pending.append(_Growing(event))
        if self._pending and self._pump is None:
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
                pending, self._pending = self._pending, []
                events = [item.whole() if isinstance(item, _Growing) else item for item in pending]
                await self._store.append(self._fence, events)
        except Exception as error:  # noqa: BLE001 - raised by the next append or flush
            self._failure = error
            self._pending = []
        finally:
            self._pump = None
