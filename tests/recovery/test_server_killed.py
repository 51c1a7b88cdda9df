"""The server dies at any moment: what it accepted is done once, and clients need not notice."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from assistants.client import Run
from assistants.v1 import run_service_pb2, run_service_pb2_grpc
from tests.recovery.journals import SHORT, Reader, ask, assert_done_once, ended
from tests.serving import SCRIPTED, ServerProcess, gone, serving

KILLS = 5
CLIENTS = 6
RUNS_BETWEEN_KILLS = (5, 25)


@pytest.mark.real_model
async def test_a_stream_ends_with_the_whole_answer_although_the_server_was_killed(tmp_path: Path) -> None:
    options = ("--slots", "1", "--context-tokens", "1024")
    async with asyncio.timeout(60), AsyncExitStack() as servers:
        server = await servers.enter_async_context(serving(tmp_path, *options))
        client = await servers.enter_async_context(server.client())
        thread, assistant = await ask(client, SHORT)
        reader = Reader(client.stream(thread.name, assistant.name))
        await reader.pieces(5)
        worker = server.worker()
        await server.killed()
        await servers.enter_async_context(serving(tmp_path, *options, address=server.address))
        events = await reader.end()

        told = await ended(client, reader.stream.run.name)
        assert_done_once(told)
        assert reader.stream.text == told.text
        assert events == told.events, "what was seen over two servers is what is stored"
        assert told.run.attempt == 2
        await gone(worker)


async def test_every_accepted_run_is_done_once_although_the_server_is_killed_again_and_again(
    tmp_path: Path,
) -> None:
    chance = random.Random(20)
    traffic = Traffic()
    async with asyncio.timeout(120), AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED))
        client = await opened.enter_async_context(server.client())
        assistant = await client.create_assistant(model="scripted")
        users = [
            asyncio.create_task(traffic.make(server, assistant.name, number)) for number in range(CLIENTS)
        ]
        for _ in range(KILLS):
            await traffic.more(chance.randint(*RUNS_BETWEEN_KILLS))
            await server.killed()
            server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED, address=server.address))
        await traffic.more(CLIENTS)
        traffic.enough = True
        await asyncio.gather(*users)

        for name, question in traffic.accepted.items():
            await client.watch(name).result()
            told = await ended(client, name)
            assert_done_once(told)
            assert told.text == question
            thread = name.split("/runs/")[0]
            assert len([message async for message in client.list_messages(thread)]) == 2
        assert sorted([name async for name in run_names(server)]) == sorted(traffic.accepted)


class Traffic:
    """Clients that create runs; every other one also watches its runs to the end."""

    def __init__(self) -> None:
        self.accepted: dict[str, str] = {}
        """Questions by name of the run."""
        self.enough = False
        self._news = asyncio.Condition()

    async def more(self, count: int) -> None:
        """Waits until that many further runs have been accepted."""
        wanted = len(self.accepted) + count
        async with self._news:
            await self._news.wait_for(lambda: len(self.accepted) >= wanted)

    async def make(self, server: ServerProcess, assistant: str, number: int) -> None:
        async with server.client() as client:
            round_number = 0
            while not self.enough:
                round_number += 1
                question = f"{number} {round_number} " + "again and " * 300
                thread = await client.create_thread()
                await client.create_message(thread.name, question)
                if number % 2:
                    run = await client.create_run(thread.name, assistant)
                else:
                    stream = client.stream(thread.name, assistant)
                    run = await stream.result()
                    assert run.state == Run.STATE_COMPLETED
                    assert stream.text == question
                async with self._news:
                    self.accepted[run.name] = question
                    self._news.notify_all()


async def run_names(server: ServerProcess) -> AsyncIterator[str]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = run_service_pb2_grpc.RunServiceStub(channel)
        request = run_service_pb2.ListRunsRequest(parent="threads/-", page_size=100)
        while True:
            response = await stub.ListRuns(request)
            for run in response.runs:
                yield run.name
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token


async def test_a_create_that_is_sent_again_after_a_kill_gives_the_same_run(tmp_path: Path) -> None:
    async with asyncio.timeout(60), AsyncExitStack() as opened:
        server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED))
        client = await opened.enter_async_context(server.client())
        thread, assistant = await ask(client, "Hello there", model="scripted")
        request = run_service_pb2.CreateRunRequest(
            parent=thread.name,
            run=Run(assistant=assistant.name),
            request_id="0d7f5b0e-6f0a-4b51-9d52-3d3a3a1d1b10",
        )
        created = await create(server, request)
        await server.killed()
        server = await opened.enter_async_context(serving(tmp_path, *SCRIPTED, address=server.address))
        assert (await create(server, request)).name == created.name
        assert [name async for name in run_names(server)] == [created.name]
        await client.watch(created.name).result()
        assert_done_once(await ended(client, created.name))


async def create(server: ServerProcess, request: run_service_pb2.CreateRunRequest) -> Run:
    async with grpc.aio.insecure_channel(server.address) as channel:
        return await run_service_pb2_grpc.RunServiceStub(channel).CreateRun(request)
