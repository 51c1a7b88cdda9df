"""Runs of one thread that are created, interrupted and ended by two servers at once: none is left behind."""

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime

from assistants.domain.errors import Fenced
from assistants.domain.run import ConcurrencyPolicy, Run
from assistants.domain.run_ending import ending
from assistants.domain.run_event import RunChanged
from assistants.domain.run_states import RunState
from tests.conformance.stores import Store

RUNS = 24


def new_run(store: Store, policy: ConcurrencyPolicy) -> Run:
    run = store.run()
    settings = replace(run.settings, concurrency=policy)
    return replace(run, settings=settings, create_time=datetime.now(UTC))


async def states(store: Store, runs: list[Run]) -> list[RunState]:
    found = [await store.runs.get("p", run.id) for run in runs]
    return [run.status.state for run in found if run is not None]


async def execute(store: Store, runs: list[Run], created: asyncio.Event) -> None:
    """Takes whatever is to be executed and ends it, until all have ended."""
    while not (created.is_set() and all(state.final for state in await states(store, runs))):
        for run_id in await store.runs.unfinished():
            claim = await store.runs.claim(run_id, takeover=True)
            if claim is None:
                continue
            cancelled = claim.run.status.state is RunState.CANCELLING
            state = RunState.CANCELLED if cancelled else RunState.EXPIRED
            status = replace(claim.run.status, state=state)
            try:
                await store.runs.append(claim.fence, ending(status, [], [], datetime.now(UTC)))
            except Fenced:  # cancelled, or taken over by the other server
                continue
        await asyncio.sleep(0)


async def test_every_run_of_a_thread_gets_its_turn_or_is_cancelled(store: Store, peer: Store) -> None:
    chance = random.Random(7)
    runs: list[Run] = []
    created = asyncio.Event()

    async def create(server: Store) -> None:
        for _ in range(RUNS // 4):
            policy = chance.choice([ConcurrencyPolicy.ENQUEUE, ConcurrencyPolicy.INTERRUPT])
            run = new_run(server, policy)
            runs.append((await server.runs.create(run, [server.message()], None, claim=None)).run)

    async with asyncio.timeout(60), asyncio.TaskGroup() as executors:
        for server in (store, peer):
            executors.create_task(execute(server, runs, created))
        await asyncio.gather(create(store), create(peer), create(store), create(peer))
        created.set()
    assert set(await states(store, runs)) <= {RunState.CANCELLED, RunState.EXPIRED}
    assert await store.runs.waiting("p", store.thread.id) == []
    assert await store.runs.active("p", store.thread.id) is None
    for run in runs:
        events = await store.log.read(run.id, after=0, limit=100)
        stored = await store.runs.get("p", run.id)
        assert stored is not None
        assert [event.sequence for event in events] == list(range(1, stored.last_sequence + 1))
        ends = [e for e in events if isinstance(e.body, RunChanged) and e.body.status.state.final]
        assert len(ends) == 1


async def test_runs_that_are_cancelled_while_they_wait_leave_the_thread_alone(
    store: Store, peer: Store
) -> None:
    claim = await store.claimed()
    waiting = [new_run(store, ConcurrencyPolicy.ENQUEUE) for _ in range(8)]
    for run in waiting:
        await store.runs.create(run, [], None, claim=None)
    ends = [
        server.runs.end_idle("p", run.id, expired=False)
        for run, server in zip(waiting, [store, peer] * 4, strict=True)
    ]
    end = ending(replace(claim.run.status, state=RunState.EXPIRED), [], [], datetime.now(UTC))
    await asyncio.gather(store.runs.append(claim.fence, end), *ends)
    assert set(await states(store, waiting)) == {RunState.CANCELLED}
    assert await store.runs.active("p", store.thread.id) is None
