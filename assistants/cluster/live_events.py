"""Live events: what a server has committed, told to those servers where somebody watches the run.

On core NATS, which keeps nothing: who misses a message reads the event log.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from pydantic import ValidationError

from assistants.cluster.broker import Broker
from assistants.domain.errors import Unavailable
from assistants.domain.run_event import RunEvent
from assistants.storage.codec import JsonCodec

Listener = Callable[[str, Sequence[RunEvent]], None]

_PREFIX = "events."
_EVENTS = JsonCodec[list[RunEvent]](list[RunEvent])
_HEADROOM = 4_096
"""Bytes of a message that are not its data."""

_logger = logging.getLogger(__name__)


class NatsLiveEvents:
    """LiveEvents: one subscription a watched run, however many watch it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._listeners: list[Listener] = []
        self._wanted: set[str] = set()
        self._subscriptions: dict[str, Subscription] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether anything can be told now."""
        return self._broker.connected

    @property
    def subscriptions(self) -> int:
        """Runs that are listened to."""
        return len(self._subscriptions)

    def publish(self, run_id: str, events: Sequence[RunEvent]) -> None:
        """Tells other servers of events that are committed. Does not wait."""
        data = _EVENTS.dump(list(events)).encode()
        if len(data) <= self._broker.largest_message - _HEADROOM:
            self._broker.tell(_PREFIX + run_id, data)
        elif len(events) > 1:
            for event in events:
                self.publish(run_id, (event,))
        # One that is too large alone is read from the log: the next one shows the gap.

    def subscribe(self, listener: Listener) -> None:
        """Calls `listener(run_id, events)` on the loop for the runs that are listened to."""
        self._listeners.append(listener)

    async def listen(self, run_id: str) -> None:
        """Begins to tell a run's events; those committed after the return are told, if none gets lost."""
        self._wanted.add(run_id)
        try:
            subscription = await self._broker.subscribe(_PREFIX + run_id, self._heard)
        except Unavailable as error:
            _logger.debug("cannot listen to %s: %s", run_id, error)
            return
        if run_id not in self._wanted:  # nobody watches any more
            self._end(subscription)
            return
        previous = self._subscriptions.pop(run_id, None)
        self._subscriptions[run_id] = subscription
        if previous is not None:
            self._end(previous)
        await self._broker.reached()

    def ignore(self, run_id: str) -> None:
        """Ends what `listen` began. Does not wait."""
        self._wanted.discard(run_id)
        subscription = self._subscriptions.pop(run_id, None)
        if subscription is not None:
            self._end(subscription)

    def _end(self, subscription: Subscription) -> None:
        async def end() -> None:
            with suppress(NatsError, OSError):
                await subscription.unsubscribe()

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _heard(self, message: Msg) -> None:
        try:
            events = _EVENTS.load(message.data.decode())
        except ValidationError:
            # Of a newer server: the log is read for it, by whoever can.
            _logger.debug("cannot read what is told on %s", message.subject)
            return
        for listener in self._listeners:
            listener(message.subject.removeprefix(_PREFIX), events)
