"""An engine behind the service behaves like the engine itself."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import pytest

from runtime.engines.remote import RemoteEngine
from runtime.errors import (
    ContextExceeded,
    EngineError,
    EngineFault,
    EngineOverloaded,
    EngineUnavailable,
    PromptRejected,
)
from runtime.events import EngineEvent, ReasoningDelta, TextDelta, ToolCallEnd, ToolCallStart, TurnEnd
from runtime.testing import ScriptedEngine
from runtime.types import ChatMessage, ChatRole, FinishReason, GenerateRequest, Usage
from runtime.worker.server import serve

END = TurnEnd(FinishReason.STOP, Usage(input_tokens=1, output_tokens=1))
REQUEST = GenerateRequest(messages=(ChatMessage(role=ChatRole.USER, content="Hello to you"),))

Connect = Callable[[ScriptedEngine], Coroutine[Any, Any, RemoteEngine]]


@pytest.fixture
async def servers() -> AsyncIterator[list[grpc.aio.Server]]:
    started: list[grpc.aio.Server] = []
    yield started
    for server in started:
        await server.stop(grace=None)


@pytest.fixture
async def connect(servers: list[grpc.aio.Server]) -> AsyncIterator[Connect]:
    engines: list[RemoteEngine] = []

    async def connect_to(engine: ScriptedEngine) -> RemoteEngine:
        server, target = await serve(engine, "127.0.0.1:0")
        servers.append(server)
        engines.append(await RemoteEngine.connect(target))
        return engines[-1]

    yield connect_to
    for engine in engines:
        await engine.aclose()


async def collect(engine: RemoteEngine) -> list[EngineEvent]:
    return [event async for event in engine.generate(REQUEST)]


async def test_events_arrive_as_they_were_sent(connect: Connect) -> None:
    turn: list[EngineEvent] = [
        ReasoningDelta("hm"),
        TextDelta("a"),
        ToolCallStart("call_1", "f"),
        ToolCallEnd(),
        END,
    ]
    scripted = ScriptedEngine([turn])
    engine = await connect(scripted)
    assert await collect(engine) == turn
    assert scripted.requests == [REQUEST]
    assert engine.model == scripted.model
    assert engine.ready


async def test_tokens_are_counted_at_the_other_end(connect: Connect) -> None:
    engine = await connect(ScriptedEngine())
    assert await engine.count_tokens(REQUEST.messages) == [7]


@pytest.mark.parametrize(
    "error",
    [
        EngineUnavailable("gone"),
        EngineOverloaded("full"),
        EngineFault("broken"),
        PromptRejected("no"),
        ContextExceeded(prompt_tokens=9, context_tokens=8),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_errors_arrive_as_they_were_raised(connect: Connect, error: EngineError) -> None:
    engine = await connect(ScriptedEngine([[TextDelta("half"), error]]))
    events = engine.generate(REQUEST)
    assert await anext(events) == TextDelta("half")
    with pytest.raises(EngineError) as raised:
        await anext(events)
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error)
    if isinstance(error, ContextExceeded):
        assert isinstance(raised.value, ContextExceeded)
        assert (raised.value.prompt_tokens, raised.value.context_tokens) == (9, 8)


async def test_a_stream_without_an_end_is_a_fault(connect: Connect) -> None:
    engine = await connect(ScriptedEngine([[TextDelta("half")]]))
    with pytest.raises(EngineFault, match="without an end"):
        await collect(engine)


async def test_embeddings_are_a_fault_where_there_are_none(connect: Connect) -> None:
    engine = await connect(ScriptedEngine())
    with pytest.raises(EngineFault, match="gives no embeddings"):
        await engine.embed(["text"])


async def test_closing_the_generator_cancels_the_call(connect: Connect) -> None:
    scripted = WatchedEngine([[TextDelta("half"), asyncio.Event()]])
    engine = await connect(scripted)
    events = engine.generate(REQUEST)
    await anext(events)
    await events.aclose()
    async with asyncio.timeout(10):
        await scripted.closed.wait()


async def test_cancelling_the_reader_cancels_the_call(connect: Connect) -> None:
    scripted = WatchedEngine([[TextDelta("half"), asyncio.Event()]])
    engine = await connect(scripted)
    reader = asyncio.create_task(collect(engine))
    async with asyncio.timeout(10):
        await scripted.opened.wait()
        reader.cancel()
        await scripted.closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await reader


async def test_closing_the_engine_ends_its_streams(connect: Connect) -> None:
    engine = await connect(ScriptedEngine([[TextDelta("half"), asyncio.Event()]]))
    events = engine.generate(REQUEST)
    await anext(events)
    rest = asyncio.ensure_future(anext(events))
    await engine.aclose()
    with pytest.raises(EngineUnavailable):
        await rest
    with pytest.raises(EngineUnavailable):
        await collect(engine)
    assert not engine.ready


async def test_a_server_that_stops_is_unavailable(connect: Connect, servers: list[grpc.aio.Server]) -> None:
    engine = await connect(ScriptedEngine([[TextDelta("half"), asyncio.Event()]]))
    events = engine.generate(REQUEST)
    await anext(events)
    await servers.pop().stop(grace=None)
    with pytest.raises(EngineUnavailable):
        await anext(events)
    with pytest.raises(EngineUnavailable):
        await engine.wait_ready(0.1)


async def test_a_target_where_nobody_is_is_unavailable(tmp_path: object) -> None:
    with pytest.raises(EngineUnavailable, match="No worker answers"):
        await RemoteEngine.connect(f"unix:{tmp_path}/none.sock", timeout_s=0.1)


class WatchedEngine(ScriptedEngine):
    """Says when a stream was opened and when it was left."""

    def __init__(self, turns: list[list[TextDelta | asyncio.Event]]) -> None:
        super().__init__(turns)
        self.opened = asyncio.Event()
        self.closed = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[EngineEvent]:  # type: ignore[override]
        try:
            async for event in super().generate(request):
                self.opened.set()
                yield event
        finally:
            self.closed.set()
