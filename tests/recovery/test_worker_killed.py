"""The process with the model dies: no run is lost, and no word of it comes twice."""

import asyncio
from pathlib import Path

import pytest

from assistants.client import Run
from assistants.server.health import RUN_SERVICE
from tests.recovery.journals import SHORT, Reader, ask, assert_done_once, ended
from tests.serving import NOT_SERVING, SERVING, serving

pytestmark = pytest.mark.real_model

OPTIONS = ("--slots", "1", "--context-tokens", "1024")


async def test_a_run_completes_although_its_worker_was_killed(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(60),
        serving(tmp_path, *OPTIONS) as server,
        server.client() as client,
        server.health(RUN_SERVICE) as health,
    ):
        assert await anext(health) == SERVING
        thread, assistant = await ask(client, SHORT)
        reader = Reader(client.stream(thread.name, assistant.name))
        await reader.pieces(5)
        worker = server.worker()
        worker.kill()
        events = await reader.end()

        told = await ended(client, reader.stream.run.name)
        assert_done_once(told)
        assert reader.stream.text == told.text
        assert events == told.events, "what was seen live is what is stored"
        assert told.run.attempt == 2
        assert told.states == [
            Run.STATE_QUEUED,
            Run.STATE_IN_PROGRESS,
            Run.STATE_IN_PROGRESS,
            Run.STATE_COMPLETED,
        ]
        assert await anext(health) == NOT_SERVING
        assert await anext(health) == SERVING
        assert server.worker().pid != worker.pid


async def test_a_run_that_had_not_spoken_yet_is_carried_on_silently(tmp_path: Path) -> None:
    async with asyncio.timeout(60), serving(tmp_path, *OPTIONS) as server, server.client() as client:
        spoken, silent = [await ask(client, SHORT) for _ in range(2)]
        first = Reader(client.stream(spoken[0].name, spoken[1].name))
        await first.pieces(1)
        second = Reader(client.stream(silent[0].name, silent[1].name))
        await second.attempt(1)
        server.worker().kill()
        await first.end()
        await second.end()

        for reader, attempts in ((first, 2), (second, 1)):
            told = await ended(client, reader.stream.run.name)
            assert_done_once(told)
            assert told.run.attempt == attempts
