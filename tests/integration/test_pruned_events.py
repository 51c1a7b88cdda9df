"""Watching a run whose events are no longer kept."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from assistants.client import Client, Run
from assistants.config import ServerConfig
from assistants.domain.errors import EventsPruned
from assistants.runs import sweep
from assistants.server.app import Server
from assistants.v1 import run_service_pb2, run_service_pb2_grpc
from runtime.testing import ScriptedEngine


@asynccontextmanager
async def serving(path: Path, *, event_retention_s: float) -> AsyncIterator[Client]:
    config = ServerConfig(
        data_dir=path / "data",
        models_dir=path / "models",
        model="scripted",
        engine="scripted",
        grpc_address="127.0.0.1:0",
        event_retention_s=event_retention_s,
    )
    async with (
        Server(config, engine=ScriptedEngine.echo()) as server,
        Client(server.address, timeout_s=20, patience_s=5) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "INTERVAL_S", 0.01)
    monkeypatch.setattr(sweep, "_SWEEPS_TO_PRUNE", 1)


async def pruned(client: Client, run: str) -> EventsPruned:
    """Watches from the beginning until that is refused."""
    while True:
        try:
            await client.watch(run).result()
        except EventsPruned as error:
            return error
        await asyncio.sleep(0.01)


async def test_events_are_kept_for_a_time_and_the_final_state_for_ever(tmp_path: Path) -> None:
    async with asyncio.timeout(30):
        async with serving(tmp_path, event_retention_s=3600) as client:
            assistant = await client.create_assistant(model="scripted")
            run = await client.stream_thread_and_run(assistant.name, "some words to say again").result()
            assert run.state == Run.STATE_COMPLETED
        # A server of its own: this one has nothing of the run in memory.
        async with serving(tmp_path, event_retention_s=0) as client:
            refused = await pruned(client, run.name)
            assert refused.oldest_sequence == run.last_sequence
            assert refused.metadata == {
                "run": run.name,
                "after_sequence": "0",
                "oldest_sequence": str(run.last_sequence),
            }
            last = [event async for event in client.watch(run.name, after_sequence=run.last_sequence - 1)]
            assert [event.run_changed.run for event in last] == [run]
            assert [event async for event in client.watch(run.name, after_sequence=run.last_sequence)] == []
            assert await client.get_run(run.name) == run
            steps = [step async for step in client.list_run_steps(run.name)]
            messages = [message async for message in client.list_messages(run.name.split("/runs/")[0])]
            assert (len(steps), len(messages)) == (1, 2)

            stub = run_service_pb2_grpc.RunServiceStub(client.channel)
            with pytest.raises(grpc.aio.AioRpcError) as told:
                async for _ in stub.WatchRun(run_service_pb2.WatchRunRequest(name=run.name)):
                    pass
            assert told.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_events_are_kept_while_their_time_has_not_come(tmp_path: Path) -> None:
    async with asyncio.timeout(30), serving(tmp_path, event_retention_s=3600) as client:
        assistant = await client.create_assistant(model="scripted")
        run = await client.stream_thread_and_run(assistant.name, "words").result()
        # Later runs have been swept with the first.
        for _ in range(20):
            await client.stream_thread_and_run(assistant.name, "words").result()
        events = [event async for event in client.watch(run.name)]
        assert [event.sequence for event in events] == list(range(1, run.last_sequence + 1))
