"""One server of a cluster: its parts on one connection to NATS. Importing this needs NATS's client."""

import asyncio
from contextlib import AsyncExitStack
from typing import Self

from assistants.cluster.broker import Broker
from assistants.cluster.live_events import NatsLiveEvents
from assistants.cluster.run_queue import JetStreamRunQueue
from assistants.cluster.signals import NatsSignals
from assistants.domain.ports import EventLog, Signals
from assistants.runs.executor import RunExecutor
from assistants.runs.sweep import Sweep
from assistants.runs.watch import Watch
from runtime.engines.base import Engine


class Together:
    """Dispatch over NATS. An asynchronous context: entered when the broker answers."""

    grace_s = 0.0
    """Another server takes over at once what this one has in hand."""

    def __init__(self, url: str, engine: Engine, *, slots: int) -> None:
        self._broker = Broker(url)
        self._engine = engine
        self._slots = slots
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Waits for the broker, however long that takes."""
        await self._opened.enter_async_context(self._broker)
        self.live = NatsLiveEvents(self._broker)
        self.queue = JetStreamRunQueue(self._broker, slots=self._slots, ready=lambda: self._engine.ready)
        self._opened.push_async_callback(self.queue.aclose)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    @property
    def reached(self) -> bool:
        """Whether the broker answers."""
        return self._broker.connected

    def signals(self, executor: RunExecutor) -> Signals:
        """Stops a run here, or wherever it is executed."""
        self._signals = NatsSignals(self._broker, executor.stop)
        return self._signals

    async def start(self, *, event_log: EventLog, sweep: Sweep, watch: Watch) -> None:
        """Begins to bring runs, events and signals. What was left unfinished is in the queue, or swept."""
        event_log.subscribe(self.live.publish)
        await self._signals.start()
        await self.queue.start()
        looking = asyncio.create_task(watch.look_into_silence(), name="watch")
        self._opened.callback(looking.cancel)
