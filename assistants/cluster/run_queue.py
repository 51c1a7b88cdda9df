"""The work queue on JetStream: who has free slots gets the runs, and a run whose server dies comes again.

A server that holds a run says so every third of `ack_wait_s`; one that is silent for
all of it is dead, or frozen, and somebody else gets the run as a takeover. How often
that may happen is not for the queue to say: claims without progress are counted.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from assistants.cluster.broker import Broker
from assistants.cluster.delivery import JetStreamDelivery
from assistants.cluster.work_stream import CONSUMER, STREAM, WorkStream
from assistants.domain.ports import QueuedRun

ACK_WAIT_S = 5.0
_HELD_PREFIX = "held."
_PULL_EXPIRES_S = 5.0
"""A frozen server's pulls swallow messages until they expire."""
_PULL_LOST_S = _PULL_EXPIRES_S + 1.0
_LOOK_S = 1.0
_PAUSE_S = 0.2
_CALM_S = 1.0
"""After a reconnect servers say what they hold before anybody pulls."""
_DOUBT_S = 15.0
"""After a reconnect: so long the broker may give us what is in another's hand."""
_HOLDER_ANSWERS_S = 0.25
_PUBLISHED_S = 2.0
_REPAIR_WINDOW_S = 30
_DRAIN_S = 1.0

_logger = logging.getLogger(__name__)


class JetStreamRunQueue:
    """RunQueue shared by all servers of a cluster."""

    shared = True

    def __init__(
        self,
        broker: Broker,
        *,
        slots: int,
        ready: Callable[[], bool] = lambda: True,
        ack_wait_s: float = ACK_WAIT_S,
    ) -> None:
        """Takes nothing before `start`.

        Args:
            broker: the connection, open.
            slots: runs that are held at the same time, at most.
            ready: whether this server can execute anything now.
            ack_wait_s: silence after which a server counts as dead.
        """
        self._broker = broker
        self._slots = slots
        self._ready = ready
        self._ack_wait_s = ack_wait_s
        self._stream = WorkStream(broker, ack_wait_s=ack_wait_s)
        self._held: set[JetStreamDelivery] = set()
        self._arrived: asyncio.Queue[JetStreamDelivery] = asyncio.Queue()
        self._outstanding = 0
        """Runs that the broker may still send us."""
        self._pulls_lost_at = 0.0
        self._wake = asyncio.Event()
        self._inbox = broker.client.new_inbox()
        self._subscription: Subscription | None = None
        self._puller: asyncio.Task[None] | None = None
        self._toucher: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._calm_until = 0.0
        self._doubt_until = 0.0
        self._doubted: dict[JetStreamDelivery, asyncio.Task[None]] = {}
        self._to_set_up = False

    async def start(self) -> None:
        """Begins to take runs, as soon as JetStream is there. Raises BrokerError when it never will."""
        await self._stream.wait_until_set_up()
        self._subscription = await self._broker.subscribe(self._inbox, self._on_message)
        await self._broker.subscribe(f"{_HELD_PREFIX}*", self._on_question)
        self._broker.on_reconnect(self._reconnected)
        self._puller = asyncio.create_task(self._pull(), name="run queue")
        self._toucher = asyncio.create_task(self._touch_held(), name="run queue touches")

    async def put(self, queued: QueuedRun, *, again: bool = False) -> None:
        """Adds one, without waiting for the broker: if it is gone, the sweep adds it `again`."""
        if not self._broker.connected and not again:
            return
        # Of servers that repair the same run at once, the first does; its message may be
        # answered before the next repair, which must not pass for the same.
        nonce = f"{int(time.time()) // _REPAIR_WINDOW_S}" if again else uuid4().hex
        data, message_id = JetStreamDelivery.encoded(queued), f"{queued.run_id}:{nonce}"
        task = asyncio.create_task(self._stream.publish(queued.run_id, data, message_id=message_id))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def take(self) -> JetStreamDelivery:
        """Waits for one."""
        return await self._arrived.get()

    async def has(self, run_id: str) -> bool:
        """Whether a run waits or is in anybody's hand. Raises Unavailable."""
        return await self._stream.has(run_id)

    async def drain(self) -> None:
        """Takes no more, and gives back what waits here to be taken; what is in hand stays there."""
        if self._puller is not None:
            self._puller.cancel()
            await asyncio.wait((self._puller,))
        if self._subscription is not None and self._broker.connected:
            # Waits until the broker knows: what it has sent before has arrived then.
            with suppress(NatsError, OSError, TimeoutError):
                async with asyncio.timeout(_DRAIN_S):
                    await self._subscription.drain()  # type: ignore[no-untyped-call]
        if self._doubted:
            await asyncio.wait(self._doubted.values())
        while not self._arrived.empty():
            await self._arrived.get_nowait().nak()

    async def aclose(self) -> None:
        """Ends it; to be drained before. What is still in hand comes to somebody else after `ack_wait_s`."""
        for task in filter(None, (self._puller, self._toucher)):
            task.cancel()
            await asyncio.wait((task,))
        if self._publishing:
            await asyncio.wait(self._publishing, timeout=_PUBLISHED_S)

    # Pulling: the number asked of the broker is that of our free slots, and no more.

    async def _pull(self) -> None:
        while True:
            try:
                await self._pull_if_free()
            except (NatsError, OSError) as error:
                _logger.debug("cannot pull: %s", error)
                self._to_set_up = True
                await asyncio.sleep(_CALM_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _LOOK_S)
            self._wake.clear()

    async def _pull_if_free(self) -> None:
        now = time.monotonic()
        if not self._broker.connected:
            return
        if self._to_set_up:
            await self._stream.set_up()
            self._to_set_up = False
        if now < self._calm_until:
            return
        if now > self._pulls_lost_at:
            self._outstanding = 0
        free = self._slots - len(self._held) - self._outstanding
        many = free >= max(1, self._slots // 2)
        if not self._ready() or not (many or (free > 0 and self._outstanding <= 0)):
            return
        self._outstanding = max(0, self._outstanding) + free
        self._pulls_lost_at = now + _PULL_LOST_S
        request = json.dumps({"batch": free, "expires": round(_PULL_EXPIRES_S * 1e9)}).encode()
        await self._broker.client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}", request, reply=self._inbox
        )

    async def _on_message(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status")
        if status is None or message.reply.startswith("$JS.ACK"):
            self._outstanding -= 1
            delivery = JetStreamDelivery(message, self._ended)
            self._held.add(delivery)
            if time.monotonic() < self._doubt_until:
                self._doubted[delivery] = asyncio.create_task(self._deliver_unless_held(delivery))
            else:
                self._arrived.put_nowait(delivery)
        elif status == "408":  # a pull has expired
            self._outstanding -= int((message.headers or {}).get("Nats-Pending-Messages", 0))
            self._wake.set()
        elif status != "100":
            # The stream has moved, or is gone, or is not there yet.
            _logger.debug("pull refused: %s", message.headers)
            self._outstanding = 0
            self._to_set_up = True
            self._calm_until = time.monotonic() + _PAUSE_S

    def _ended(self, delivery: JetStreamDelivery) -> None:
        self._held.discard(delivery)
        self._wake.set()

    # What is in hand.

    async def _touch_held(self) -> None:
        while True:
            await asyncio.sleep(self._ack_wait_s / 3)
            if self._broker.connected:
                await self._touch()

    async def _touch(self) -> None:
        for delivery in list(self._held):
            await delivery.touch()

    async def _reconnected(self) -> None:
        """The broker has forgotten our pulls, and may have forgotten that what we hold is in hand."""
        await self._touch()
        self._outstanding = 0
        self._to_set_up = True
        self._calm_until = time.monotonic() + _CALM_S
        self._doubt_until = time.monotonic() + _DOUBT_S
        self._wake.set()

    # A broker that was away for longer than `ack_wait_s` takes all that is in hand for lost,
    # and one that was killed may not know what it has given to whom: so we ask each other.

    async def _deliver_unless_held(self, delivery: JetStreamDelivery) -> None:
        try:
            await self._broker.client.request(_HELD_PREFIX + delivery.run_id, timeout=_HOLDER_ANSWERS_S)
        except (NatsError, OSError):  # nobody answers
            delivery.takeover = True
            self._arrived.put_nowait(delivery)
        else:
            delivery.drop()
        finally:
            del self._doubted[delivery]

    async def _on_question(self, message: Msg) -> None:
        run_id = message.subject.removeprefix(_HELD_PREFIX)
        if any(held.run_id == run_id and held not in self._doubted for held in self._held):
            await message.respond(b"")
