"""The server as a process: start, say `ready`, drain on SIGTERM or SIGINT."""

import asyncio
import logging
import signal
import sys

from assistants.config import ServerConfig
from assistants.domain.errors import DataDirectoryError
from assistants.server.app import AddressInUse, Server
from assistants.telemetry.setup import Shutdown, TelemetryMisconfigured, configure
from runtime.errors import ModelError, WorkerStartFailed

EXPECTED_FAILURES = (DataDirectoryError, AddressInUse, TelemetryMisconfigured, ModelError, WorkerStartFailed)
"""What can be wrong about a machine; each is one line for people."""

_logger = logging.getLogger(__name__)


def serve(config: ServerConfig) -> int:
    """Serves until told to stop; gives the exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
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
    async with Server(config) as server:
        print(f"ready grpc={server.address} model={server.model}", flush=True)
        await told_to_stop.wait()
        _logger.info("draining")
