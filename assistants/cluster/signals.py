"""Stop signals: whoever executes a run looks at its row, and ends it as that says."""

from collections.abc import Callable

from nats.aio.msg import Msg

from assistants.cluster.broker import Broker

_PREFIX = "stop."


class NatsSignals:
    """Signals to all servers. One that is lost costs time: the next append is refused, or the sweep looks."""

    def __init__(self, broker: Broker, stop_here: Callable[[str], None]) -> None:
        """Sends and receives; `stop_here(run_id)` stops a run that this server executes, if it does."""
        self._broker = broker
        self._stop_here = stop_here

    async def start(self) -> None:
        """Begins to hear the signals of other servers."""
        await self._broker.subscribe(f"{_PREFIX}*", self._heard)

    def stop(self, run_id: str) -> None:
        """Makes whoever executes a run look at its state. Does not wait."""
        self._stop_here(run_id)
        self._broker.tell(_PREFIX + run_id, b"")

    async def _heard(self, message: Msg) -> None:
        self._stop_here(message.subject.removeprefix(_PREFIX))
