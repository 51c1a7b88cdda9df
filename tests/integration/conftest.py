"""A real server in this process, over real gRPC, with whatever engine a test gives it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from assistants.client import Client
from assistants.config import ServerConfig
from assistants.server.app import Server
from runtime.engines.base import Engine
from runtime.engines.openai_http import OpenAIHttpEngine
from runtime.testing import ScriptedEngine
from tests.scripted_http import ScriptedServer, scripted_server

Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Starts a server on the test's own data directory; gives a client of it."""

    @asynccontextmanager
    async def start(engine: Engine | None = None) -> AsyncIterator[Client]:
        config = ServerConfig(
            data_dir=tmp_path / "data",
            models_dir=tmp_path / "models",
            model="scripted",
            engine="scripted",
            grpc_address="127.0.0.1:0",
        )
        async with (
            Server(config, engine=engine or ScriptedEngine.echo()) as server,
            Client(server.address, timeout_s=20, patience_s=5) as client,
        ):
            yield client

    return start


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[Client]:
    """A client of a server whose engine echoes the user."""
    async with serve() as client:
        yield client


@pytest.fixture
async def openai_server() -> AsyncIterator[ScriptedServer]:
    """A server of OpenAI's API that plays what a test wrote down, and passes for vLLM."""
    async with scripted_server(tokenize={"count": 3, "tokens": [1, 2, 3]}) as server:
        yield server


@pytest.fixture
async def openai_engine(openai_server: ScriptedServer) -> AsyncIterator[OpenAIHttpEngine]:
    """An engine on it."""
    engine = await OpenAIHttpEngine.connect(openai_server.url)
    yield engine
    await engine.aclose()
