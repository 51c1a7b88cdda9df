"""Runs that are told to stop, and runs whose time is over."""

import asyncio
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from assistants.client import Client, Message, Run, RunStep
from assistants.domain.errors import RunEnded
from tests.recovery.journals import ENDLESS, SHORT, Reader, ask, assert_done_once, deltas, ended
from tests.serving import SCRIPTED, serving

ONE_SLOT = ("--slots", "1")
"""One generation at a time; the executor takes up one more run, and the others stay queued."""


async def start(client: Client, question: str, *, ttl_s: int = 600) -> Run:
    thread, assistant = await ask(client, question)
    return await client.create_run(thread.name, assistant.name, ttl=Duration(seconds=ttl_s))


@pytest.mark.real_model
async def test_a_cancelled_run_keeps_what_it_said_and_frees_thread_and_slot(tmp_path: Path) -> None:
    async with asyncio.timeout(60), serving(tmp_path, *ONE_SLOT) as server, server.client() as client:
        thread, assistant = await ask(client, ENDLESS)
        reader = Reader(client.stream(thread.name, assistant.name))
        await reader.pieces(5)
        cancelled = await client.cancel_run(reader.stream.run.name)
        assert cancelled.state == Run.STATE_CANCELLING
        events = await reader.end()

        told = await ended(client, cancelled.name)
        assert events == told.events
        assert told.states[-2:] == [Run.STATE_CANCELLING, Run.STATE_CANCELLED]
        (message,), (step,) = told.messages, told.steps
        assert message.state == Message.STATE_INCOMPLETE
        assert message.incomplete_reason == Message.INCOMPLETE_REASON_RUN_CANCELLED
        assert step.state == RunStep.STATE_CANCELLED
        assert told.text.startswith(deltas(events, attempt=1))

        with pytest.raises(RunEnded) as refused:
            await client.cancel_run(cancelled.name)
        assert refused.value.metadata == {"run": cancelled.name, "state": "cancelled"}
        # The first answer would take minutes: a second one in seconds needs its slot.
        await client.create_message(thread.name, SHORT)
        async with asyncio.timeout(15):
            run = await client.stream(thread.name, assistant.name).result()
        assert_done_once(await ended(client, run.name))


@pytest.mark.real_model
async def test_a_run_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    async with asyncio.timeout(60), serving(tmp_path, *ONE_SLOT) as server, server.client() as client:
        busy, waiting, queued = [await start(client, ENDLESS) for _ in range(3)]
        assert (await client.get_run(waiting.name)).state == Run.STATE_IN_PROGRESS
        assert (await client.cancel_run(queued.name)).state == Run.STATE_CANCELLED
        assert (await client.cancel_run(waiting.name)).state == Run.STATE_CANCELLING
        for run in (queued, waiting):
            await client.watch(run.name).result()
            told = await ended(client, run.name)
            assert told.run.state == Run.STATE_CANCELLED
            assert not told.messages
        await client.cancel_run(busy.name)

        async with asyncio.timeout(15):
            run = await client.watch((await start(client, SHORT)).name).result()
        assert run.state == Run.STATE_COMPLETED


async def test_a_run_that_has_completed_cannot_be_cancelled(tmp_path: Path) -> None:
    async with asyncio.timeout(20), serving(tmp_path, *SCRIPTED) as server, server.client() as client:
        thread, assistant = await ask(client, "Hello", model="scripted")
        run = await client.stream(thread.name, assistant.name).result()
        with pytest.raises(RunEnded):
            await client.cancel_run(run.name)
        assert_done_once(await ended(client, run.name))


@pytest.mark.real_model
async def test_a_run_without_progress_expires_and_one_with_progress_does_not(tmp_path: Path) -> None:
    async with asyncio.timeout(60), serving(tmp_path, *ONE_SLOT) as server, server.client() as client:
        thread, assistant = await ask(client, ENDLESS)
        busy = Reader(client.stream(thread.name, assistant.name, ttl=Duration(seconds=2)))
        await busy.pieces(1)
        waiting, queued = [await start(client, ENDLESS, ttl_s=seconds) for seconds in (3, 1)]
        for run in (queued, waiting):
            await client.watch(run.name).result()
            told = await ended(client, run.name)
            assert told.run.state == Run.STATE_EXPIRED
            assert not told.messages
            # The thread is free.
            await client.create_message(run.name.split("/runs/")[0], SHORT)

        assert (await client.get_run(busy.stream.run.name)).state == Run.STATE_IN_PROGRESS
        await client.cancel_run(busy.stream.run.name)
        await busy.end()
