"""A server of OpenAI's API that plays what a test wrote down: a real socket, and no model behind it."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from runtime.engines.openai_http import OpenAIHttpEngine
from runtime.events import EngineEvent
from runtime.types import ChatMessage, ChatRole, GenerateRequest

Json = dict[str, Any]

HELLO = GenerateRequest(messages=(ChatMessage(role=ChatRole.USER, content="Hello"),))

USAGE: Json = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
VLLM_MODEL: Json = {"id": "acme/Model-8B", "object": "model", "owned_by": "vllm", "max_model_len": 4096}


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One answer to `POST /v1/chat/completions`."""

    chunks: Sequence[Json | str | asyncio.Event] = ()
    """Data of events; a gate is waited at."""
    status: int = 200
    body: str = ""
    """The whole answer, in place of a stream."""
    end: str = "data: [DONE]\n\n"
    drops: bool = False
    """Whether the connection breaks off in place of ending."""


def delta(finish_reason: str | None = None, **fields: Any) -> Json:
    """A chunk with one delta."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def usage(**fields: Any) -> Json:
    """The chunk that ends a stream."""
    return {"choices": [], "usage": USAGE | fields}


def answer(*chunks: Json, finish_reason: str = "stop", **usage_fields: Any) -> Play:
    """A whole stream."""
    return Play(chunks=(*chunks, delta(finish_reason), usage(**usage_fields)))


@dataclass(slots=True)
class ScriptedServer:
    """What it was asked, and what it answers."""

    plays: deque[Play] = field(default_factory=deque)
    pages: dict[str, Json | list[Any] | int] = field(default_factory=dict)
    """Answers to other paths: a document, or a status."""
    asked: list[tuple[str, Mapping[str, str], Json]] = field(default_factory=list)
    waits: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a stream has come to a gate."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client goes away before its stream has ended."""
    url: str = ""

    @property
    def bodies(self) -> list[Json]:
        """What was asked of the chat completions, oldest first."""
        return [body for path, _, body in self.asked if path == "/v1/chat/completions"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request, and closes the connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            path = head[0].split()[1]
            self.asked.append((path, headers, json.loads(body) if body else {}))
            if path == "/v1/chat/completions":
                await self._play(self.plays.popleft(), reader, writer)
            else:
                page = self.pages.get(path, 404)
                status = page if isinstance(page, int) else 200
                writer.write(_response(status, "{}" if isinstance(page, int) else json.dumps(page)))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _play(self, play: Play, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if play.body or play.status != 200:
            writer.write(_response(play.status, play.body))
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for chunk in play.chunks:
            if isinstance(chunk, asyncio.Event):
                await writer.drain()
                self.waits.set()
                gone = asyncio.create_task(reader.read(1))
                opened = asyncio.create_task(chunk.wait())
                await asyncio.wait({gone, opened}, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    self.left.set()
                    opened.cancel()
                    return
                gone.cancel()
                continue
            data = chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=False)
            writer.write(_chunked(f"data: {data}\n\n"))
        if play.drops:
            writer.write(b"400\r\ndata: {")
        else:
            writer.write(_chunked(play.end) + b"0\r\n\r\n")
        await writer.drain()


@asynccontextmanager
async def scripted_server(
    model: Json = VLLM_MODEL, **pages: Json | list[Any] | int
) -> AsyncIterator[ScriptedServer]:
    """Starts one on a free port. Double underscores in the names of pages are slashes."""
    scripted = ScriptedServer()
    scripted.pages = {"/v1/models": {"object": "list", "data": [model]}, "/health": {}}
    scripted.pages |= {"/" + name.replace("__", "/"): page for name, page in pages.items()}
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    scripted.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield scripted
    finally:
        server.close()
        await server.wait_closed()


def _chunked(text: str) -> bytes:
    data = text.encode()
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


def _response(status: int, body: str) -> bytes:
    data = body.encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def events_of(engine: OpenAIHttpEngine, request: GenerateRequest = HELLO) -> list[EngineEvent]:
    """All events of one turn."""
    return [event async for event in engine.generate(request)]
