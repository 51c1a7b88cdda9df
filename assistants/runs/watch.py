"""Watching a journal: replay from a cursor, then follow.

A watcher has only its cursor. It reads from the run's tail in memory where that
reaches back far enough, and from the event log where not; so a slow watcher
holds nothing and slows nobody.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence

from assistants.domain.errors import NotFound
from assistants.domain.names import run_name
from assistants.domain.ports import EventLog
from assistants.domain.run import Run
from assistants.domain.run_event import RunEvent

ENDED_RUNS = 128
"""Runs of which the newest events are kept after their end."""
_TAIL_EVENTS = 1024
_PAGE = 512


class _Tail:
    """The newest events of one run."""

    def __init__(self) -> None:
        self._events: list[RunEvent] = []
        self._waiters: list[asyncio.Future[None]] = []
        self.watchers = 0
        self.last = 0
        self.ended = False
        self.paused = False

    def extend(self, events: Sequence[RunEvent]) -> None:
        if self._events and events[0].sequence != self.last + 1:
            self._events.clear()  # events of another node are missing between: the log has them
        self._events += events
        if len(self._events) > 2 * _TAIL_EVENTS:
            del self._events[:-_TAIL_EVENTS]
        self.last = events[-1].sequence
        self.ended = events[-1].final
        self.paused = events[-1].pausing
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def after(self, sequence: int) -> Sequence[RunEvent] | None:
        """The events after a sequence; None when the tail does not reach back to it."""
        if not self._events or sequence < self._events[0].sequence - 1:
            return None
        return self._events[sequence - self.last :] if sequence < self.last else ()

    async def wait_beyond(self, sequence: int) -> None:
        while self.last <= sequence:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter


class Watch:
    """The watchers of all runs on this node."""

    def __init__(self, event_log: EventLog) -> None:
        self._event_log = event_log
        self._tails: dict[str, _Tail] = {}
        # A run is mostly watched right after it ended, if not before.
        self._ended: OrderedDict[str, _Tail] = OrderedDict()
        event_log.subscribe(self._published)

    @property
    def kept(self) -> int:
        """Runs of which events are kept in memory."""
        return len(self._tails) + len(self._ended)

    async def follow(self, run: Run, *, after: int) -> AsyncGenerator[RunEvent]:
        """Gives the events after a sequence and ends after the final one.

        Live and replayed events are the same. Closing the generator ends the
        watch and nothing else. Raises NotFound when the run is deleted before
        its events were given.
        """
        # Opened before the log is read: what is appended from now on is noticed.
        tail = self._ended.get(run.id) or self._tails.setdefault(run.id, _Tail())
        tail.watchers += 1
        ended = run.status.state.final
        cursor = after
        try:
            while True:
                events = tail.after(cursor)
                # The row of a run can be newer than its tail: the commit is seen
                # before its events are told.
                if events is None or (ended and not events):
                    known = max(tail.last, run.last_sequence)
                    events = await self._event_log.read(run.id, after=cursor, limit=_PAGE)
                    if not events and cursor < known:
                        raise NotFound("run", run_name(run.thread_id, run.id))
                for event in events:
                    yield event
                    cursor = event.sequence
                    if event.final:
                        return
                if not events:
                    if ended or (tail.ended and cursor >= tail.last):
                        return
                    await tail.wait_beyond(cursor)
        finally:
            tail.watchers -= 1
            self._forget_if_idle(run.id, tail)

    def _published(self, run_id: str, events: Sequence[RunEvent]) -> None:
        tail = self._tails.setdefault(run_id, _Tail())
        tail.extend(events)
        self._forget_if_idle(run_id, tail)

    def _forget_if_idle(self, run_id: str, tail: _Tail) -> None:
        """Drops a tail that nobody watches and nobody extends; those of the last ended runs stay a while.

        A run may wait for tool outputs for days: if nobody watches, it is read from the log afterwards.
        """
        nothing_comes = tail.ended or tail.paused or not tail.last
        if not tail.watchers and nothing_comes and self._tails.get(run_id) is tail:
            del self._tails[run_id]
            if tail.ended:
                self._ended[run_id] = tail
                if len(self._ended) > ENDED_RUNS:
                    self._ended.popitem(last=False)
