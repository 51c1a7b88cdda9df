"""A message of the work queue, in the hand of this server."""

import logging
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from assistants.domain.ports import QueuedRun

_logger = logging.getLogger(__name__)


class JetStreamDelivery:
    """A run in hand. As long as it is, the queue is told so: else somebody else gets it."""

    def __init__(self, message: Msg, on_end: Callable[["JetStreamDelivery"], None]) -> None:
        """Takes a message of the queue; `on_end` is called once, when it is in hand no more."""
        run_id, takeover = message.data.decode().split()
        self.run_id = run_id
        self.tries = message.metadata.num_delivered
        self.takeover = self.tries > 1 or takeover == "1"
        self._message = message
        self._on_end = on_end
        self._open = True

    @staticmethod
    def encoded(queued: QueuedRun) -> bytes:
        """What the message of a run says."""
        return f"{queued.run_id} {int(queued.takeover)}".encode()

    async def ack(self) -> None:
        """It needs nobody."""
        if self._end():
            await self._answer(self._message.ack)

    async def nak(self, delay_s: float = 0.0) -> None:
        """Somebody is to take it over, after a delay."""
        if self._end():
            await self._answer(lambda: self._message.nak(delay_s or None))

    def drop(self) -> None:
        """Somebody else has it: nothing is said."""
        self._end()

    async def touch(self) -> None:
        """It is still in hand."""
        if self._open:
            await self._answer(self._message.in_progress)

    def _end(self) -> bool:
        was_open, self._open = self._open, False
        if was_open:
            self._on_end(self)
        return was_open

    async def _answer(self, answer: Callable[[], Awaitable[None]]) -> None:
        try:
            await answer()
        except (NatsError, OSError) as error:
            # It comes again after a while, and whoever takes it finds the row as it is.
            _logger.debug("cannot answer for %s: %s", self.run_id, error)
