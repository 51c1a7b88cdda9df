"""SIGTERM: what is in progress is finished in time, or goes on with the next server."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from assistants.client import Run
from assistants.config import DRAIN_GRACE_S
from assistants.domain.errors import Unavailable
from assistants.server.health import RUN_SERVICE
from tests.recovery.journals import ENDLESS, SHORT, Reader, ask, assert_done_once, ended
from tests.serving import NOT_SERVING, SCRIPTED, SERVING, serving

pytestmark = pytest.mark.real_model

ONE_SLOT = ("--slots", "1")


async def test_a_run_in_progress_completes_before_the_exit(tmp_path: Path) -> None:
    async with asyncio.timeout(60), AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(tmp_path, *ONE_SLOT))
        client = await opened.enter_async_context(server.client())
        thread, assistant = await ask(client, SHORT)
        reader = Reader(client.stream(thread.name, assistant.name))
        async with server.health(RUN_SERVICE) as health:
            assert await anext(health) == SERVING
            await reader.pieces(3)
            server.tell_to_stop()
            assert await anext(health) == NOT_SERVING
        async with server.client(patience_s=0) as late:
            with pytest.raises(Unavailable):
                while True:  # answered until the port closes, a moment later
                    await late.list_models()
        assert server.running
        events = await reader.end()
        assert reader.stream.run.state == Run.STATE_COMPLETED
        assert await server.exited() == 0
        assert await server.rest_of_stdout() == ""
        assert "Traceback" not in await server.stderr()

        server = await opened.enter_async_context(serving(tmp_path, *ONE_SLOT, address=server.address))
        told = await ended(client, reader.stream.run.name)
        assert_done_once(told)
        assert told.run.attempt == 1
        assert events == told.events


async def test_a_run_that_takes_longer_goes_on_with_the_next_server(tmp_path: Path) -> None:
    now = asyncio.get_running_loop().time
    async with asyncio.timeout(90), AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(tmp_path, *ONE_SLOT))
        client = await opened.enter_async_context(server.client())
        (thread, assistant), waiting = await ask(client, ENDLESS), await ask(client, SHORT)
        endless = Reader(client.stream(thread.name, assistant.name))
        await endless.pieces(3)
        short = Reader(client.stream(waiting[0].name, waiting[1].name))
        await short.attempt(1)
        told_at = now()
        assert await server.terminate() == 0
        assert now() - told_at < DRAIN_GRACE_S + 5
        assert "Traceback" not in await server.stderr()

        await opened.enter_async_context(serving(tmp_path, *ONE_SLOT, address=server.address))
        await endless.attempt(2)
        await client.cancel_run(endless.stream.run.name)
        for reader, state in ((endless, Run.STATE_CANCELLED), (short, Run.STATE_COMPLETED)):
            events = await reader.end()
            told = await ended(client, reader.stream.run.name)
            assert told.run.state == state
            assert told.run.attempt == 2
            assert events == told.events
        assert_done_once(told)


async def test_an_idle_server_stops_at_once_although_clients_are_connected(tmp_path: Path) -> None:
    async with asyncio.timeout(20), AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED))
        client = await opened.enter_async_context(server.client())
        await client.list_models()
        health = await opened.enter_async_context(server.health(RUN_SERVICE))
        assert await anext(health) == SERVING
        async with asyncio.timeout(DRAIN_GRACE_S / 2):
            assert await server.terminate() == 0
