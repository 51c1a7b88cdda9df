"""The server as a process: start, say `ready`, drain on SIGTERM or SIGINT."""

import asyncio
import gc
import logging
import signal
import sys
from contextlib import AsyncExitStack

from assistants.config import ServerConfig
from assistants.domain.errors import BrokerError, DatabaseError
from assistants.server.app import AddressInUse, Server
from assistants.telemetry.setup import Shutdown, TelemetryMisconfigured, configure
from runtime.errors import EngineError, ModelError, WorkerStartFailed

EXPECTED_FAILURES = (
    DatabaseError,
    BrokerError,
    AddressInUse,
    TelemetryMisconfigured,
    ModelError,
    WorkerStartFailed,
    EngineError,
)
"""What can be wrong about a machine; each is one line for people."""

_logger = logging.getLogger(__name__)


def serve(config: ServerConfig) -> int:
    """Serves until told to stop; gives the exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for chatty in ("alembic", "httpx2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    shut_down_telemetry = Shutdown()
    try:
        shut_down_telemetry = configure()
        asyncio.run(_serve(config))
    except EXPECTED_FAILURES as error:
        print(f"assistants: {error}", file=sys.stderr)
        return 1
    finally:
        shut_down_telemetry()
    return 0


async def _serve(config: ServerConfig) -> None:
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    stopping = asyncio.create_task(told_to_stop.wait())
    async with AsyncExitStack() as running:
        # A large model loads for minutes: who wants it stopped does not wait for that.
        starting = asyncio.create_task(running.enter_async_context(Server(config)))
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
            return
        server = starting.result()
        # What was made so far stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        print(f"ready grpc={server.address} model={server.model}", flush=True)
        await stopping
        _logger.info("draining")
