"""An engine that speaks at a pace that tests choose: a server of OpenAI's API without a model.

It answers a message such as "40 words every 50 ms" with "0 1 2 … 39 ", and takes that long, or is held.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.scripted_http import VLLM_MODEL, delta, usage

MODEL = str(VLLM_MODEL["id"]).rpartition("/")[2]
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nConnection: close\r\n\r\n"


def words(count: int, *, every_ms: int) -> str:
    """The message to which the engine answers with so many words."""
    return f"{count} words every {every_ms} ms"


def answer(count: int) -> str:
    """What it answers."""
    return "".join(f"{number} " for number in range(count))


@dataclass(slots=True)
class PacedServer:
    """What it was asked."""

    asked: list[str] = field(default_factory=list)
    """The messages, oldest first."""
    held_at: int | None = None
    """The word before which every answer waits until `released`."""
    released: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request, and closes the connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if head.split()[1] == "/v1/chat/completions":
                await self._speak(json.loads(body)["messages"][-1]["content"], writer)
            else:
                writer.write(_HEAD.format("application/json").encode())
                writer.write(json.dumps({"object": "list", "data": [VLLM_MODEL]}).encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _speak(self, message: str, writer: asyncio.StreamWriter) -> None:
        self.asked.append(message)
        count, every_ms = (int(number) for number in re.findall(r"\d+", message)[:2])
        writer.write(_HEAD.format("text/event-stream").encode())
        for number in range(count):
            if number == self.held_at:
                await self.released.wait()
            writer.write(_event(delta(content=f"{number} ")))
            await writer.drain()
            await asyncio.sleep(every_ms / 1000)
        writer.write(_event(delta("stop")) + _event(usage()) + b"data: [DONE]\n\n")
        await writer.drain()


@asynccontextmanager
async def paced_server() -> AsyncIterator[PacedServer]:
    """Starts one on a free port."""
    paced = PacedServer()
    server = await asyncio.start_server(paced.serve, "127.0.0.1", 0)
    paced.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield paced
    finally:
        server.close()


def _event(data: object) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
