"""Watching a journal: replay from a cursor, then follow.

A watcher has only its cursor. It reads from the run's tail in memory where that
reaches back far enough, and from the event log where not; so a slow watcher
holds nothing and slows nobody.

What other servers append is told by `LiveEvents`, once a run, however many watch it.
That may lose something: a gap shows by the sequences, silence is looked into, and
both are healed by the event log.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence

from assistants.domain.errors import EventsPruned, NotFound, Unavailable
from assistants.domain.names import run_name
from assistants.domain.ports import EventLog, LiveEvents
from assistants.domain.run import Run
from assistants.domain.run_event import RunEvent

ENDED_RUNS = 128
"""Runs of which the newest events are kept after their end."""
_TAIL_EVENTS = 1024
_PAGE = 512
_LOOK_S = 0.25
_SILENCE_S = 1.0
"""After which the log is read for whoever watches a run that is executed elsewhere."""
_LONGEST_SILENCE_S = 8.0
"""A run that says nothing is looked at less and less often, down to this."""
_READS_AT_ONCE = 4

_logger = logging.getLogger(__name__)


class _Tail:
    """The newest events of one run."""

    def __init__(self) -> None:
        self._events: list[RunEvent] = []
        self._waiters: list[asyncio.Future[None]] = []
        self.watchers = 0
        self.last = 0
        self.ended = False
        self.paused = False
        self.joining: asyncio.Task[None] | None = None
        """Done when events of other servers are told; None where there are none, or nobody watches."""
        self.patience_s = _SILENCE_S
        self.heard_at = 0.0
        """Time of the loop."""

    def extend(self, events: Sequence[RunEvent]) -> None:
        """Adds events that are stored, from whoever tells of them: some may be known, some missing."""
        if events[-1].sequence <= self.last:
            return
        if events[0].sequence > self.last + 1:
            self._events.clear()  # the log has what is missing
        self._events += events[max(0, self.last + 1 - events[0].sequence) :]
        if len(self._events) > 2 * _TAIL_EVENTS:
            del self._events[:-_TAIL_EVENTS]
        self.last = events[-1].sequence
        self.ended = events[-1].final
        self.paused = events[-1].pausing
        self.patience_s = _SILENCE_S
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def after(self, sequence: int) -> Sequence[RunEvent] | None:
        """The events after a sequence; None when the tail does not reach back to it."""
        if not self._events or sequence < self._events[0].sequence - 1:
            return None
        return self._events[sequence - self.last :] if sequence < self.last else ()

    def forget(self) -> None:
        """Drops the events: what was told since may be missing."""
        self._events.clear()

    async def wait_beyond(self, sequence: int) -> None:
        while self.last <= sequence:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter


class Watch:
    """The watchers of all runs on this node."""

    def __init__(
        self,
        event_log: EventLog,
        *,
        live: LiveEvents | None = None,
        executes: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Begins to keep tails.

        Args:
            event_log: tells what this server appends, and has all.
            live: tells what other servers append; None when there are none.
            executes: whether a run is executed here.
        """
        self._event_log = event_log
        self._live = live
        self._executes = executes
        self._tails: dict[str, _Tail] = {}
        self._joining: set[asyncio.Task[None]] = set()
        # A run is mostly watched right after it ended, if not before.
        self._ended: OrderedDict[str, _Tail] = OrderedDict()
        event_log.subscribe(self._published)
        if live is not None:
            live.subscribe(self._heard)

    @property
    def kept(self) -> int:
        """Runs of which events are kept in memory."""
        return len(self._tails) + len(self._ended)

    async def follow(self, run: Run, *, after: int) -> AsyncGenerator[RunEvent]:
        """Gives the events after a sequence and ends after the final one.

        Live and replayed events are the same. Closing the generator ends the
        watch and nothing else.

        Raises:
            NotFound: the run is deleted before its events were given.
            EventsPruned: events after the sequence are no longer kept.
        """
        # Opened before the log is read: what is appended from now on is noticed.
        tail = self._ended.get(run.id) or self._tails.setdefault(run.id, _Tail())
        tail.watchers += 1
        ended = run.status.state.final
        cursor = after
        try:
            if self._live is not None and not ended:
                await self._join(self._live, run.id, tail)
            while True:
                events = tail.after(cursor)
                # The row of a run can be newer than its tail: the commit is seen
                # before its events are told.
                if events is None or (ended and not events):
                    known = max(tail.last, run.last_sequence)
                    events = await self._event_log.read(run.id, after=cursor, limit=_PAGE)
                    if not events and cursor < known:
                        raise NotFound("run", run_name(run.thread_id, run.id))
                    if events and events[0].sequence > cursor + 1:
                        raise EventsPruned(
                            run=run_name(run.thread_id, run.id),
                            after_sequence=cursor,
                            oldest_sequence=events[0].sequence,
                        )
                    if events and self._live is not None:
                        tail.extend(events)  # who else watches need not wait to be told, or read
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
            self._leave(run.id, tail)
            self._forget_if_idle(run.id, tail)

    async def look_into_silence(self) -> None:
        """Reads the log for those who watch what is executed elsewhere and hear nothing. Until cancelled."""
        permits = asyncio.Semaphore(_READS_AT_ONCE)

        async def look(run_id: str, tail: _Tail) -> None:
            async with permits:
                if events := await self._event_log.read(run_id, after=tail.last, limit=_PAGE):
                    tail.extend(events)
                else:
                    tail.patience_s = min(2 * tail.patience_s, _LONGEST_SILENCE_S)
                tail.heard_at = asyncio.get_running_loop().time()

        while True:
            await asyncio.sleep(_LOOK_S)
            silent = self._silent_tails()
            results = await asyncio.gather(*(look(*tail) for tail in silent), return_exceptions=True)
            for (run_id, _), error in zip(silent, results, strict=True):
                if isinstance(error, Unavailable):
                    _logger.debug("cannot read the events of %s: %s", run_id, error)
                elif error is not None:
                    _logger.error("cannot read the events of %s", run_id, exc_info=error)

    def _silent_tails(self) -> list[tuple[str, _Tail]]:
        """Those that are watched, not extended here, and about which nothing was heard for a while."""
        now = asyncio.get_running_loop().time()
        silent = []
        for run_id, tail in list(self._tails.items()):
            if self._executes(run_id):
                continue
            if not tail.watchers:
                del self._tails[run_id]  # it was executed here, and ended or goes on elsewhere
                continue
            if self._live is not None and not self._live.connected:
                tail.patience_s = _SILENCE_S
            if tail.heard_at + tail.patience_s <= now:
                silent.append((run_id, tail))
        return silent

    async def _join(self, live: LiveEvents, run_id: str, tail: _Tail) -> None:
        """Makes other servers' events come to a tail: with its first watcher, for all of them."""
        if tail.joining is None:
            tail.joining = asyncio.create_task(self._listen(live, run_id, tail), name=f"listen {run_id}")
            self._joining.add(tail.joining)
            tail.joining.add_done_callback(self._joining.discard)
        await asyncio.shield(tail.joining)

    async def _listen(self, live: LiveEvents, run_id: str, tail: _Tail) -> None:
        await live.listen(run_id)
        tail.heard_at = asyncio.get_running_loop().time()
        if not self._executes(run_id):
            tail.forget()  # it may have gone on before anybody listened

    def _leave(self, run_id: str, tail: _Tail) -> None:
        if self._live is not None and not tail.watchers and tail.joining is not None:
            tail.joining = None
            self._live.ignore(run_id)

    def _published(self, run_id: str, events: Sequence[RunEvent]) -> None:
        """This server has appended something."""
        tail = self._tails.setdefault(run_id, _Tail())
        tail.extend(events)
        if self._live is not None:
            tail.heard_at = asyncio.get_running_loop().time()
        self._forget_if_idle(run_id, tail)

    def _heard(self, run_id: str, events: Sequence[RunEvent]) -> None:
        """Another server has."""
        tail = self._tails.get(run_id)
        if tail is not None and tail.joining is not None:
            tail.heard_at = asyncio.get_running_loop().time()
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
