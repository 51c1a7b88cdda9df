"""A pool of real workers, and what is left of it when one is killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from runtime.engines.pool import PooledEngine
from runtime.engines.remote import RemoteEngine
from runtime.errors import EngineUnavailable
from runtime.events import TextDelta, TurnEnd
from runtime.loop import run_turns
from runtime.observe import NullObserver
from runtime.types import ChatMessage, ChatRole, GenerateRequest, Sampling
from tests.integration.workers import WorkerProcess, start_worker, two_workers

pytestmark = pytest.mark.real_model

GREEDY = Sampling(temperature=0)


@pytest.fixture
async def workers(model_path: Path) -> AsyncIterator[tuple[WorkerProcess, WorkerProcess]]:
    async with two_workers(model_path) as started:
        yield started


@pytest.fixture
async def pool(workers: tuple[WorkerProcess, WorkerProcess]) -> AsyncIterator[PooledEngine]:
    pooled = PooledEngine({worker.target: await RemoteEngine.connect(worker.target) for worker in workers})
    yield pooled
    await pooled.aclose()


def ask(text: str, *, affinity: str = "", max_output_tokens: int = 8) -> GenerateRequest:
    return GenerateRequest(
        messages=(ChatMessage(role=ChatRole.USER, content=text),),
        sampling=GREEDY,
        max_output_tokens=max_output_tokens,
        affinity=affinity,
    )


async def turn(engine: PooledEngine, request: GenerateRequest) -> TurnEnd:
    """One turn, as the loop does it."""
    events = [event async for event in run_turns(engine, request, NullObserver())]
    assert any(isinstance(event, TextDelta) for event in events)
    end = events[-1]
    assert isinstance(end, TurnEnd)
    return end


def owner(pool: PooledEngine) -> str:
    """The member that does something."""
    (member,) = [member for member in pool._members if member.generations]
    return member.name


async def test_both_work_at_the_same_time(pool: PooledEngine) -> None:
    assert pool.model.slots == 2
    streams = [pool.generate(ask("Tell me about the sea.", max_output_tokens=64)) for _ in range(2)]
    for stream in streams:
        await anext(stream)
    assert [member.generations for member in pool._members] == [1, 1]
    for stream in streams:
        await stream.aclose()


async def test_a_thread_finds_its_prefix_cached(pool: PooledEngine) -> None:
    for thread in ("thread_1", "thread_2", "thread_3"):
        text = f"{thread}: tell me about the sea, the sky, the sun, the moon, the stars and the wind."
        first = await turn(pool, ask(text, affinity=thread))
        second = await turn(pool, ask(text, affinity=thread))
        assert second.usage.cached_input_tokens > first.usage.input_tokens // 2


async def test_turns_go_on_when_a_worker_is_killed(
    pool: PooledEngine, workers: tuple[WorkerProcess, WorkerProcess], model_path: Path
) -> None:
    request = ask("Tell me about the sea.", affinity="thread_1", max_output_tokens=200)
    async with AsyncExitStack() as stack:
        events = pool.generate(request)
        stack.push_async_callback(events.aclose)
        async for event in events:
            if isinstance(event, TextDelta):
                break
        dead = owner(pool)
        (killed,) = [worker for worker in workers if worker.target == dead]
        await killed.kill()
        with pytest.raises(EngineUnavailable):
            async for _ in events:
                pass
    assert pool.ready
    for _ in range(3):
        await turn(pool, ask("Say hi.", affinity="thread_1"))
    assert await pool.count_tokens(request.messages)

    # The next worker at its place takes its threads back.
    successor = await start_worker(model_path, target=dead)
    try:
        (member,) = [member for member in pool._members if member.name == dead]
        assert member.recovery is not None
        async with asyncio.timeout(60):
            await asyncio.wait({member.recovery})
        events = pool.generate(request)
        await anext(events)
        assert owner(pool) == dead
        await events.aclose()
    finally:
        await successor.kill()


async def test_a_turn_that_had_not_spoken_goes_on_elsewhere_silently(
    pool: PooledEngine, workers: tuple[WorkerProcess, WorkerProcess]
) -> None:
    """The worker dies while nobody looks: its channel still seems to be there."""
    request = ask("Say hi.", affinity="thread_1")
    events = pool.generate(request)
    await anext(events)
    (own,) = [worker for worker in workers if worker.target == owner(pool)]
    await events.aclose()
    await own.kill()
    end = await turn(pool, request)
    assert end.usage.output_tokens > 0


async def test_the_end_of_all_is_told(
    pool: PooledEngine, workers: tuple[WorkerProcess, WorkerProcess]
) -> None:
    for worker in workers:
        await worker.kill()
    for _ in workers:
        with pytest.raises(EngineUnavailable):
            async for _ in pool.generate(ask("Say hi.")):
                pass
    assert not pool.ready
    with pytest.raises(EngineUnavailable, match="No engine of the pool answers"):
        await pool.wait_ready(0.1)
