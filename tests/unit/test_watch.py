"""Watchers see every event once and in order, whatever memory and log know at the moment."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from assistants.domain.errors import NotFound
from assistants.domain.run import Run, RunSettings, RunStatus
from assistants.domain.run_event import RunChanged, RunEvent, TextDelta
from assistants.domain.run_states import RunState
from assistants.runs.watch import ENDED_RUNS, Watch

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUN = Run(
    id="run_1",
    project_id="p",
    thread_id="thread_1",
    assistant_id="asst_1",
    settings=RunSettings(model="m"),
    status=RunStatus(state=RunState.IN_PROGRESS),
    create_time=NOW,
)
ENDED = replace(RUN, status=RunStatus(state=RunState.COMPLETED))


def event(sequence: int, *, final: bool = False) -> RunEvent:
    body = RunChanged(ENDED.status) if final else TextDelta("m", 0, str(sequence))
    return RunEvent(sequence=sequence, attempt=1, event_time=NOW, body=body)


class MemoryLog:
    """An event log whose listeners are told when the test says so."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []
        self.reads = 0
        self._listener: Callable[[str, Sequence[RunEvent]], None] | None = None

    async def read(self, run_id: str, *, after: int, limit: int) -> Sequence[RunEvent]:
        self.reads += 1
        await asyncio.sleep(0)
        return [e for e in self.events if e.sequence > after][:limit]

    def subscribe(self, listener: Callable[[str, Sequence[RunEvent]], None]) -> None:
        self._listener = listener

    def tell(self, *events: RunEvent, run_id: str = RUN.id) -> None:
        assert self._listener is not None
        self._listener(run_id, events)

    def append(self, *events: RunEvent) -> None:
        self.events += events
        self.tell(*events)


async def follow(watch: Watch, run: Run, after: int = 0) -> list[int]:
    return [e.sequence async for e in watch.follow(run, after=after)]


async def test_a_run_that_ended_before_its_events_were_told_is_read_from_the_log() -> None:
    log = MemoryLog()
    watch = Watch(log)
    log.append(event(1), event(2))
    log.events += [event(3), event(4, final=True)]  # committed, not told yet
    assert await follow(watch, ENDED, after=2) == [3, 4]


async def test_a_watch_beyond_the_end_ends() -> None:
    log = MemoryLog()
    log.events += [event(1, final=True)]
    assert await follow(Watch(log), ENDED, after=1) == []


async def test_events_that_arrive_while_the_log_is_read_are_not_missed() -> None:
    log = MemoryLog()
    watch = Watch(log)
    log.events += [event(1)]
    following = asyncio.create_task(follow(watch, RUN))
    await asyncio.sleep(0)
    log.append(event(2))
    await asyncio.sleep(0)
    log.append(event(3, final=True))
    assert await following == [1, 2, 3]


async def test_a_slow_watcher_reads_from_the_log_what_the_tail_has_dropped() -> None:
    log = MemoryLog()
    watch = Watch(log)
    log.append(event(1))
    slow = watch.follow(RUN, after=0)
    seen = [(await anext(slow)).sequence]
    for sequence in range(2, 5_000):
        log.append(event(sequence))
    log.append(event(5_000, final=True))
    seen += [e.sequence async for e in slow]
    assert seen == list(range(1, 5_001))


async def test_a_live_watcher_needs_no_log() -> None:
    log = MemoryLog()
    watch = Watch(log)
    log.append(event(1))
    following = asyncio.create_task(follow(watch, RUN))
    for sequence in range(2, 100):
        await asyncio.sleep(0)
        log.append(event(sequence))
    log.append(event(100, final=True))
    assert await following == list(range(1, 101))
    assert log.reads == 0


async def test_a_run_that_just_ended_needs_no_log() -> None:
    log = MemoryLog()
    watch = Watch(log)
    log.append(event(1), event(2, final=True))
    assert await follow(watch, ENDED) == [1, 2]
    assert log.reads == 0


async def test_only_the_last_ended_runs_are_kept() -> None:
    log = MemoryLog()
    watch = Watch(log)
    for number in range(3 * ENDED_RUNS):
        log.tell(event(1, final=True), run_id=f"run_{number}")
    assert watch.kept == ENDED_RUNS
    log.events = [event(1, final=True)]
    assert await follow(watch, ENDED) == [1]
    assert log.reads == 1


async def test_a_watcher_that_is_behind_is_told_when_the_run_is_deleted() -> None:
    log = MemoryLog()
    watch = Watch(log)
    log.append(event(1))
    slow = watch.follow(RUN, after=0)
    assert (await anext(slow)).sequence == 1
    for sequence in range(2, 5_000):
        log.append(event(sequence))
    log.append(event(5_000, final=True))
    log.events.clear()  # the thread is deleted, with all that is in it
    with pytest.raises(NotFound):
        async with asyncio.timeout(5):
            await anext(slow)
    with pytest.raises(NotFound):
        await follow(watch, replace(RUN, id="run_2", last_sequence=3))


async def test_a_run_that_waits_for_the_client_is_not_kept_in_memory() -> None:
    log = MemoryLog()
    watch = Watch(log)
    waiting = RunChanged(RunStatus(state=RunState.REQUIRES_ACTION))
    log.append(event(1))
    assert watch.kept == 1
    log.append(RunEvent(sequence=2, attempt=1, event_time=NOW, body=waiting))
    assert watch.kept == 0
    following = asyncio.create_task(follow(watch, RUN))
    await asyncio.sleep(0)
    log.append(event(3))
    log.append(event(4, final=True))
    assert await following == [1, 2, 3, 4]
