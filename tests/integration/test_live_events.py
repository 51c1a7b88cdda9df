"""Watchers on one server of what another appends, over a real broker: all of it, each event once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from assistants.cluster.broker import Broker
from assistants.cluster.live_events import NatsLiveEvents
from assistants.cluster.signals import NatsSignals
from assistants.domain.run import Run, RunSettings, RunStatus
from assistants.domain.run_event import RunChanged, RunEvent, TextDelta
from assistants.domain.run_states import RunState
from assistants.runs.watch import Watch
from tests.cluster_parts import NatsServer

NOW = datetime(2026, 1, 1, 12, 30, 15, 123_456, tzinfo=UTC)
RUN = Run(
    id="run_1",
    project_id="p",
    thread_id="thread_1",
    assistant_id="asst_1",
    settings=RunSettings(model="m"),
    status=RunStatus(state=RunState.IN_PROGRESS),
    create_time=NOW,
)
LARGEST = 1_048_576
"""Bytes of a message, unless the broker is told otherwise."""

Listener = Callable[[str, Sequence[RunEvent]], None]


def delta(sequence: int, text: str = "") -> RunEvent:
    return RunEvent(sequence=sequence, attempt=1, event_time=NOW, body=TextDelta("m", 0, text))


def end(sequence: int) -> RunEvent:
    status = RunStatus(state=RunState.COMPLETED, end_time=NOW)
    return RunEvent(sequence=sequence, attempt=1, event_time=NOW, body=RunChanged(status))


class Log:
    """The journal that both servers share, in place of a database."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []
        self.reads = 0
        self.read_now = asyncio.Event()

    async def read(self, run_id: str, *, after: int, limit: int) -> Sequence[RunEvent]:
        self.reads += 1
        self.read_now.set()
        return [event for event in self.events if event.sequence > after][:limit]

    def subscribe(self, listener: Listener) -> None:
        """The watching server appends nothing."""


class TwoServers:
    """One appends, the other watches."""

    def __init__(
        self, writer: NatsLiveEvents, live: NatsLiveEvents, looking: set[asyncio.Task[None]]
    ) -> None:
        self.log = Log()
        self.live = live
        self._writer = writer
        self._watch = Watch(self.log, live=live, executes=lambda _: False)
        looking.add(asyncio.create_task(self._watch.look_into_silence()))

    def append(self, *events: RunEvent, told: bool = True) -> None:
        self.log.events += events
        if told:
            self._writer.publish(RUN.id, events)

    async def follow(self, run: Run = RUN, *, after: int = 0) -> list[RunEvent]:
        return [event async for event in self._watch.follow(run, after=after)]


@pytest.fixture
async def servers(nats_url: str) -> AsyncIterator[TwoServers]:
    looking: set[asyncio.Task[None]] = set()
    async with asyncio.timeout(30), Broker(nats_url) as one, Broker(nats_url) as other:
        yield TwoServers(NatsLiveEvents(one), NatsLiveEvents(other), looking)
        for task in looking:
            task.cancel()


async def listening(servers: TwoServers) -> None:
    """Waits until the watchers listen, and have read what was there before."""
    await servers.log.read_now.wait()
    await asyncio.sleep(0)


async def test_a_thousand_watchers_of_a_run_are_one_subscription(servers: TwoServers) -> None:
    servers.append(delta(1))
    watching = [asyncio.create_task(servers.follow()) for _ in range(1_000)]
    await listening(servers)
    assert servers.live.subscriptions == 1
    for sequence in range(2, 200):
        servers.append(delta(sequence, "word "))
        await asyncio.sleep(0)
    servers.append(end(200))
    for seen in await asyncio.gather(*watching):
        assert seen == servers.log.events
    assert servers.live.subscriptions == 0
    assert servers.log.reads < 3_000, "what is told is not read"


async def test_a_gap_is_read_from_the_log(servers: TwoServers) -> None:
    servers.append(delta(1))
    following = asyncio.create_task(servers.follow())
    await listening(servers)
    servers.append(delta(2))
    servers.append(delta(3), told=False)
    servers.append(delta(4), told=False)
    servers.append(delta(5))
    servers.append(end(6))
    assert await following == servers.log.events


async def test_what_was_never_told_is_found_by_its_silence(servers: TwoServers) -> None:
    servers.append(delta(1))
    following = asyncio.create_task(servers.follow())
    await listening(servers)
    servers.append(delta(2), end(3), told=False)
    assert await following == servers.log.events


async def test_what_comes_late_twice_or_out_of_order_changes_nothing(servers: TwoServers) -> None:
    servers.append(delta(1))
    following = asyncio.create_task(servers.follow())
    await listening(servers)
    servers.append(*(delta(sequence) for sequence in range(2, 6)), told=False)
    late, early = servers.log.events[1:3], servers.log.events[3:5]
    for events in (early, late, early, late, early[1:]):
        servers._writer.publish(RUN.id, events)
    servers.append(end(6))
    assert await following == servers.log.events


async def test_events_of_any_size_arrive(servers: TwoServers) -> None:
    servers.append(delta(1))
    following = asyncio.create_task(servers.follow())
    await listening(servers)
    servers.append(*(delta(sequence, "x" * (LARGEST // 3)) for sequence in range(2, 6)))
    servers.append(delta(6, "x" * 2 * LARGEST), delta(7))
    servers.append(end(8))
    assert await following == servers.log.events


async def test_a_run_that_is_watched_again_is_listened_to_again(servers: TwoServers) -> None:
    servers.append(delta(1))
    for number in range(2, 40):
        first = asyncio.create_task(servers.follow())
        await asyncio.sleep(0.001 * (number % 5))
        first.cancel()
        await asyncio.wait((first,))
    following = asyncio.create_task(servers.follow())
    await asyncio.sleep(0.1)
    assert servers.live.subscriptions == 1
    servers.append(delta(2), end(3))
    assert await following == servers.log.events
    assert servers.live.subscriptions == 0


async def test_an_ended_run_is_not_listened_to(servers: TwoServers) -> None:
    servers.append(delta(1), end(2), told=False)
    ended = replace(RUN, status=RunStatus(state=RunState.COMPLETED), last_sequence=2)
    assert await servers.follow(ended) == servers.log.events
    assert servers.live.subscriptions == 0


async def test_streams_go_on_without_the_broker(servers: TwoServers, nats_broker: NatsServer) -> None:
    servers.append(delta(1))
    following = asyncio.create_task(servers.follow())
    await listening(servers)
    nats_broker.kill()
    servers.append(delta(2))
    late = asyncio.create_task(servers.follow(after=1))
    while servers.log.reads < 4:
        servers.log.read_now.clear()
        await servers.log.read_now.wait()
    await nats_broker.start()
    servers.append(delta(3), end(4), told=False)
    assert await following == servers.log.events
    assert await late == servers.log.events[1:]


async def test_a_stop_signal_reaches_every_server(nats_url: str) -> None:
    async with asyncio.timeout(20), AsyncExitStack() as opened:
        heard: list[asyncio.Queue[str]] = [asyncio.Queue() for _ in range(3)]
        servers = []
        for queue in heard:
            broker = await opened.enter_async_context(Broker(nats_url))
            servers.append(NatsSignals(broker, queue.put_nowait))
            await servers[-1].start()
            await broker.reached()
        servers[1].stop("run_1")
        servers[2].stop("run_2")
        for queue in heard:
            assert {await queue.get(), await queue.get()} == {"run_1", "run_2"}
            assert queue.empty()
