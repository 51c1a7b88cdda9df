"""The connection to NATS: waited for at start, made again for ever."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from assistants.domain.errors import Unavailable

# A host that vanished without a word is noticed after about twice this.
_PING_INTERVAL_S = 5
_MOST_PINGS = 2
_RECONNECT_PAUSE_S = 0.25
_CONNECT_TIMEOUT_S = 2
_OUTGOING = 16_384
"""Messages that wait to be sent; more are dropped, since what is told here can be read elsewhere."""
_REMIND_S = 10.0
_LAST_WORDS_S = 1

_logger = logging.getLogger(__name__)


class Broker:
    """One connection of a server to NATS. An asynchronous context: connected on entry, closed on exit."""

    def __init__(self, url: str) -> None:
        """Does nothing yet.

        Args:
            url: `nats://host:port` or `tls://…`, several separated by commas; user and password may be in it.
        """
        self._servers = url.split(",")
        self.client = Client()
        self._outgoing: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(_OUTGOING)
        self._sender: asyncio.Task[None] | None = None
        self._on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self._told = 0.0

    async def __aenter__(self) -> Self:
        """Waits until the broker answers, however long that takes."""
        await self.client.connect(
            self._servers,
            name="assistants",
            no_echo=True,
            connect_timeout=_CONNECT_TIMEOUT_S,
            reconnect_time_wait=_RECONNECT_PAUSE_S,  # type: ignore[arg-type]  # a float does
            max_reconnect_attempts=-1,
            ping_interval=_PING_INTERVAL_S,
            max_outstanding_pings=_MOST_PINGS,
            error_cb=self._failed,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
        )
        self._sender = asyncio.create_task(self._send(), name="nats sender")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait((self._sender,))
        if self.connected:
            with suppress(NatsError, OSError):
                await self.client.flush(_LAST_WORDS_S)
        with suppress(NatsError, OSError):  # of a connection that is lost already
            await self.client.close()

    @property
    def connected(self) -> bool:
        """Whether the broker answers."""
        return bool(self.client.is_connected)

    @property
    def largest_message(self) -> int:
        """In bytes."""
        return int(self.client.max_payload)

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Calls it after each time that the connection was made again."""
        self._on_reconnect.append(callback)

    def tell(self, subject: str, data: bytes) -> None:
        """Tells whoever listens, if anybody does and the broker is there. Does not wait."""
        if self.connected and not self._outgoing.full():
            self._outgoing.put_nowait((subject, data))

    async def subscribe(self, subject: str, callback: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Calls `callback` with each message, one after the other."""
        try:
            return await self.client.subscribe(subject, cb=callback)
        except NatsError as error:
            raise broker_unavailable(error) from error

    async def reached(self) -> bool:
        """Waits until all that was sent has reached the broker; False when it does not answer."""
        if not self.connected:
            return False
        try:
            await self.client.flush(_CONNECT_TIMEOUT_S)
        except (NatsError, OSError):
            return False
        return True

    async def _send(self) -> None:
        while True:
            subject, data = await self._outgoing.get()
            try:
                await self.client.publish(subject, data)
            except (NatsError, OSError) as error:
                _logger.debug("not told: %s", error)

    async def _failed(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if not self.connected and now >= self._told + _REMIND_S:
            self._told = now
            hosts = ", ".join(server.rpartition("@")[2].removeprefix("nats://") for server in self._servers)
            _logger.warning("waiting for NATS at %s: %s", hosts, str(error) or type(error).__name__)
        else:
            _logger.debug("nats: %r", error)

    async def _disconnected(self) -> None:
        if not self.client.is_closed:
            _logger.warning("NATS is gone: what is in hand goes on, what is new waits")

    async def _reconnected(self) -> None:
        _logger.info("NATS is back")
        self._told = 0.0
        for callback in self._on_reconnect:
            await callback()


def broker_unavailable(error: Exception) -> Unavailable:
    """What is told when NATS does not do its part."""
    return Unavailable(f"NATS does not answer: {str(error) or type(error).__name__}", retry_after_s=1.0)
