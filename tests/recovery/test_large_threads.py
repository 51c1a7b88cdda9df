"""Threads with more text than fits one gRPC message of the usual size."""

import asyncio
from pathlib import Path

from tests.recovery.journals import ask, assert_done_once, ended, text_of_message
from tests.serving import SCRIPTED, serving


async def test_long_messages_can_be_listed_and_answered(tmp_path: Path) -> None:
    texts = [f"{number} ".ljust(250_000, "x") for number in range(20)]
    async with asyncio.timeout(30), serving(tmp_path, *SCRIPTED) as server, server.client() as client:
        thread, assistant = await ask(client, texts[0], model="scripted")
        for text in texts[1:]:
            await client.create_message(thread.name, text)
        assert [text_of_message(message) async for message in client.list_messages(thread.name)] == texts
        run = await client.stream(thread.name, assistant.name).result()
        told = await ended(client, run.name)
        assert_done_once(told)
        assert told.text == texts[-1]
