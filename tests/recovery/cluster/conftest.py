"""A cluster: real servers on a real database and a real broker, with an engine that speaks at a pace."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.cluster_parts import NatsServer
from tests.paced_http import PacedServer, paced_server
from tests.serving import ServerProcess, serving

StartServer = Callable[..., Awaitable[ServerProcess]]


@pytest.fixture
async def paced() -> AsyncIterator[PacedServer]:
    """The engine of all servers."""
    async with paced_server() as server:
        yield server


@pytest.fixture
async def start_server(
    tmp_path: Path, migrated_url: str, nats_broker: NatsServer, paced: PacedServer
) -> AsyncIterator[StartServer]:
    """Starts one more server of the test's cluster."""
    shared = ("--database-url", migrated_url, "--nats-url", nats_broker.url)
    paced_engine = ("--engine-url", paced.url)
    async with AsyncExitStack() as opened:

        async def start(
            *, slots: int = 4, engine: Sequence[str] = paced_engine, address: str = "127.0.0.1:0"
        ) -> ServerProcess:
            options = (*shared, *engine, "--slots", str(slots))
            return await opened.enter_async_context(serving(tmp_path / "unused", *options, address=address))

        yield start
