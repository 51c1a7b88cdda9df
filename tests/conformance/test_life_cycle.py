"""Every state of a run against every act of everybody: done and told, or refused and nothing changed."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa

from assistants.domain.content import Role, TextPart
from assistants.domain.errors import Fenced, InvalidArgument, NoActionRequired
from assistants.domain.ids import new_id
from assistants.domain.message import Message, MessageIncompleteReason, MessageState
from assistants.domain.ports import Claim, Fence
from assistants.domain.run import (
    ConcurrencyPolicy,
    Run,
    RunError,
    RunErrorCode,
    RunIncompleteReason,
    RunSettings,
    RunStatus,
)
from assistants.domain.run_ending import ending
from assistants.domain.run_event import EventBody, MessageChanged, RunChanged, StepChanged, TextDelta
from assistants.domain.run_states import TRANSITIONS, Actor, RunState, may_follow
from assistants.domain.run_step import MessageCreation, RunStep, StepState, ToolCalls
from assistants.domain.thread import Thread
from assistants.domain.tool import StepToolCall, ToolOutput
from assistants.storage.connection import Connection
from assistants.storage.database import Database
from assistants.storage.event_log import SqlEventLog
from assistants.storage.run_store import SqlRunStore
from assistants.storage.tables import METADATA
from assistants.storage.threads import SqlThreads

PROJECT = "p"
CALL = StepToolCall(id="call_1", name="f", arguments_json="{}")
OUTPUTS = [ToolOutput(tool_call_id=CALL.id, output="out")]
LONG_AGO = timedelta(hours=1)
TABLES = {table.name: sa.select(table) for table in METADATA.sorted_tables}


@dataclass
class World:
    """A store, and what can be asked of it."""

    database: Database
    store: SqlRunStore
    log: SqlEventLog
    threads: SqlThreads

    async def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """All rows of all tables: what was refused must not change one."""

        def rows(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
            return {
                name: sorted((tuple(row) for row in connection.execute(select)), key=repr)
                for name, select in TABLES.items()
            }

        return await self.database.read(rows)

    async def thread(self) -> str:
        now = datetime.now(UTC)
        thread = Thread(id=new_id("thread"), project_id=PROJECT, create_time=now, update_time=now)
        await self.threads.create(thread, None)
        return thread.id

    def new_run(self, thread_id: str, policy: ConcurrencyPolicy = ConcurrencyPolicy.REJECT) -> Run:
        # Its time was over long ago, until it makes progress.
        now = datetime.now(UTC)
        return Run(
            id=new_id("run"),
            project_id=PROJECT,
            thread_id=thread_id,
            assistant_id="asst_1",
            settings=RunSettings(model="m", concurrency=policy),
            status=RunStatus(state=RunState.QUEUED, expire_time=now - LONG_AGO),
            create_time=now - 2 * LONG_AGO,
        )

    async def get(self, run_id: str) -> Run:
        run = await self.store.get(PROJECT, run_id)
        assert run is not None
        return run

    async def state(self, run_id: str) -> RunState:
        return (await self.get(run_id)).status.state


@pytest.fixture
async def world(database: Database) -> World:
    log = SqlEventLog(database)
    return World(database, SqlRunStore(database, log), log, SqlThreads(database))


@contextmanager
def about(*what: object) -> Iterator[None]:
    """Says what a test was at when it failed."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"with {' '.join(map(str, what))}")
        raise


@dataclass
class Subject:
    """A run in some state, with the right to write to it that its last executor had."""

    run_id: str
    fence: Fence
    waits: bool = False


def step_of(run: Run, details: MessageCreation | ToolCalls, *, index: int = 0) -> RunStep:
    return RunStep(
        id=new_id("step"),
        project_id=PROJECT,
        thread_id=run.thread_id,
        run_id=run.id,
        index=index,
        state=StepState.IN_PROGRESS,
        details=details,
        attempt=1,
        create_time=datetime.now(UTC),
    )


def message_of(run: Run, message_id: str) -> Message:
    return Message(
        id=message_id,
        project_id=PROJECT,
        thread_id=run.thread_id,
        role=Role.ASSISTANT,
        content=(),
        state=MessageState.IN_PROGRESS,
        run_id=run.id,
        create_time=datetime.now(UTC),
    )


def changed(run: Run, state: RunState) -> list[EventBody]:
    """What an executor appends to bring a run to a state."""
    status = replace(run.status, state=state)
    if state is RunState.REQUIRES_ACTION:
        step = step_of(run, ToolCalls(calls=(CALL,)), index=9)
        expire_time = datetime.now(UTC) - LONG_AGO
        return [
            StepChanged(step),
            RunChanged(replace(status, required_action=(CALL,), expire_time=expire_time)),
        ]
    if state is RunState.COMPLETED:
        return [RunChanged(replace(status, end_time=datetime.now(UTC), expire_time=None))]
    if state.final:
        return list(ending(status, [], [], datetime.now(UTC)))
    return [RunChanged(status)]


async def queued(world: World) -> Subject:
    run = world.new_run(await world.thread())
    await world.store.create(run, [], None, claim=None)
    return Subject(run.id, fence_of(run))


async def waiting(world: World) -> Subject:
    holder = await in_progress(world)
    run = world.new_run((await world.get(holder.run_id)).thread_id, ConcurrencyPolicy.ENQUEUE)
    assert (await world.store.create(run, [], None, claim=None)).waits
    return Subject(run.id, fence_of(run), waits=True)


async def in_progress(world: World) -> Subject:
    subject = await queued(world)
    claim = await world.store.claim(subject.run_id, takeover=False)
    assert claim is not None
    return Subject(subject.run_id, claim.fence)


async def requires_action(world: World) -> Subject:
    return await brought_to(world, RunState.REQUIRES_ACTION)


async def cancelling(world: World) -> Subject:
    subject = await in_progress(world)
    await world.store.end_idle(PROJECT, subject.run_id, expired=False)
    return subject


async def cancelled(world: World) -> Subject:
    subject = await cancelling(world)
    run = await world.get(subject.run_id)
    await world.store.append(subject.fence, changed(run, RunState.CANCELLED))
    return subject


async def brought_to(world: World, state: RunState) -> Subject:
    subject = await in_progress(world)
    await world.store.append(subject.fence, changed(await world.get(subject.run_id), state))
    return subject


def fence_of(run: Run) -> Fence:
    return Fence(project_id=PROJECT, thread_id=run.thread_id, run_id=run.id, epoch=0)


MADE: dict[str, Callable[[World], Awaitable[Subject]]] = {
    "waiting": waiting,
    "queued": queued,
    "in_progress": in_progress,
    "requires_action": requires_action,
    "cancelling": cancelling,
    "cancelled": cancelled,
    **{
        state.value: lambda world, state=state: brought_to(world, state)  # type: ignore[misc]
        for state in (RunState.FAILED, RunState.COMPLETED, RunState.INCOMPLETE, RunState.EXPIRED)
    },
}


def state_of(name: str) -> RunState:
    return RunState.QUEUED if name == "waiting" else RunState(name)


async def make(world: World, name: str) -> Subject:
    subject = await MADE[name](world)
    assert await world.state(subject.run_id) is state_of(name)
    return subject


def test_there_is_a_way_into_every_state() -> None:
    assert {state_of(name) for name in MADE} == set(RunState)


async def assert_nothing_changes(world: World, act: Awaitable[object], *errors: type[Exception]) -> None:
    before = await world.everything()
    if errors:
        with pytest.raises(errors):
            await act
    else:
        await act
    assert await world.everything() == before


async def assert_told(world: World, subject: Subject, old: RunState, new: RunState, by: Actor) -> None:
    """The row has the new state, and the journal's last event says so."""
    assert may_follow(old, new, by)
    run = await world.get(subject.run_id)
    assert run.status.state is new
    events = await world.log.read(subject.run_id, after=0, limit=100)
    assert [event.sequence for event in events] == list(range(1, run.last_sequence + 1))
    body = events[-1].body
    assert isinstance(body, RunChanged)
    assert body.status.state is new
    assert (run.status.end_time is not None) == new.final
    assert (run.status.expire_time is None) == new.final


async def test_an_executor(world: World) -> None:
    for name, new in product(MADE, RunState):
        with about(name, new):
            subject, old = await make(world, name), state_of(name)
            events = changed(await world.get(subject.run_id), new)
            if may_follow(old, new, Actor.EXECUTOR):
                await world.store.append(subject.fence, events)
                await assert_told(world, subject, old, new, Actor.EXECUTOR)
            else:
                await assert_nothing_changes(world, world.store.append(subject.fence, events), Fenced)


async def test_an_executor_that_only_speaks(world: World) -> None:
    for name in MADE:
        with about(name):
            subject = await make(world, name)
            spoken = [TextDelta("msg_1", 0, "word")]
            if state_of(name) is RunState.IN_PROGRESS:
                await world.store.append(subject.fence, spoken)
                assert await world.state(subject.run_id) is RunState.IN_PROGRESS
            else:
                await assert_nothing_changes(world, world.store.append(subject.fence, spoken), Fenced)


async def test_an_executor_of_an_older_epoch(world: World) -> None:
    for name in MADE:
        with about(name):
            subject = await make(world, name)
            old = replace(subject.fence, epoch=subject.fence.epoch - 1)
            run = await world.get(subject.run_id)
            for new in RunState:
                await assert_nothing_changes(world, world.store.append(old, changed(run, new)), Fenced)


@pytest.mark.parametrize("takeover", [False, True], ids=["first", "takeover"])
async def test_a_claimer(world: World, takeover: bool) -> None:
    for name in MADE:
        with about(name):
            await claim_and_see(world, name, takeover=takeover)


async def claim_and_see(world: World, name: str, *, takeover: bool) -> None:
    subject, old = await make(world, name), state_of(name)
    takes = {RunState.QUEUED} | ({RunState.IN_PROGRESS, RunState.CANCELLING} if takeover else set())
    if old not in takes or subject.waits:
        await assert_nothing_changes(world, world.store.claim(subject.run_id, takeover=takeover))
        return
    claim = await world.store.claim(subject.run_id, takeover=takeover)
    assert claim is not None
    new = RunState.CANCELLING if old is RunState.CANCELLING else RunState.IN_PROGRESS
    await assert_told(world, subject, old, new, Actor.CLAIMER)
    assert claim.fence.epoch == subject.fence.epoch + 1
    assert claim.run == await world.get(subject.run_id)
    await assert_nothing_changes(
        world, world.store.append(subject.fence, changed(claim.run, RunState.CANCELLED)), Fenced
    )


@pytest.mark.parametrize("take", [False, True], ids=["queue", "take"])
async def test_a_submitter(world: World, take: bool) -> None:
    for name in MADE:
        with about(name):
            await submit_and_see(world, name, take=take)


async def submit_and_see(world: World, name: str, *, take: bool) -> None:
    subject, old = await make(world, name), state_of(name)
    run = await world.get(subject.run_id)
    submit = world.store.submit
    if old is RunState.REQUIRES_ACTION:
        for wrong in ([], [*OUTPUTS, *OUTPUTS], [ToolOutput(tool_call_id="call_2", output="")]):
            await assert_nothing_changes(world, submit(run, wrong, None, take=take), InvalidArgument)
        await submit(run, OUTPUTS, None, take=take)
        assert may_follow(old, RunState.QUEUED, Actor.SUBMITTER)
        new = RunState.IN_PROGRESS if take else RunState.QUEUED
        await assert_told(
            world, subject, RunState.QUEUED if take else old, new, Actor.CLAIMER if take else Actor.SUBMITTER
        )
        assert (await world.get(subject.run_id)).status.required_action == ()
    refused = submit(run, OUTPUTS, None, take=take)
    await assert_nothing_changes(world, refused, NoActionRequired)


async def test_a_canceller(world: World) -> None:
    for name in MADE:
        with about(name):
            await cancel_and_see(world, name)


async def cancel_and_see(world: World, name: str) -> None:
    subject, old = await make(world, name), state_of(name)
    new = next((new for new, by in TRANSITIONS[old].items() if by is Actor.CANCELLER), None)
    act = world.store.end_idle(PROJECT, subject.run_id, expired=False)
    if new is None:
        await assert_nothing_changes(world, act)
        return
    await act
    await assert_told(world, subject, old, new, Actor.CANCELLER)
    again = world.store.end_idle(PROJECT, subject.run_id, expired=False)
    await assert_nothing_changes(world, again)


async def test_an_expirer(world: World) -> None:
    for name in MADE:
        with about(name):
            subject, old = await make(world, name), state_of(name)
            act = world.store.end_idle(PROJECT, subject.run_id, expired=True)
            if may_follow(old, RunState.EXPIRED, Actor.EXPIRER):
                await act
                await assert_told(world, subject, old, RunState.EXPIRED, Actor.EXPIRER)
                assert await world.store.overdue(datetime.now(UTC)) == []
            else:
                await assert_nothing_changes(world, act)


async def test_an_expirer_before_the_time(world: World) -> None:
    for name in MADE:
        with about(name):
            subject = await make(world, name)
            await world.store.renew(PROJECT, subject.run_id)
            await assert_nothing_changes(world, world.store.end_idle(PROJECT, subject.run_id, expired=True))


@pytest.mark.parametrize("name", ["queued", "in_progress", "requires_action", "cancelling"])
async def test_the_end_of_a_run_admits_the_next_and_only_that(world: World, name: str) -> None:
    subject = await make(world, name)
    run = await world.get(subject.run_id)
    admitted: list[str] = []
    world.store.on_admitted(admitted.append)
    said = Message(
        id="msg_kept",
        project_id=PROJECT,
        thread_id=run.thread_id,
        role=Role.USER,
        content=(TextPart(value="and?"),),
        state=MessageState.COMPLETED,
        create_time=run.create_time,
        end_time=run.create_time,
    )
    second = world.new_run(run.thread_id, ConcurrencyPolicy.ENQUEUE)
    third = world.new_run(run.thread_id, ConcurrencyPolicy.ENQUEUE)
    assert (await world.store.create(second, [said], None, claim=None)).waits
    assert (await world.store.create(third, [], None, claim=None)).waits
    assert await world.store.waiting(PROJECT, run.thread_id) == [second.id, third.id]
    await world.store.end_idle(PROJECT, run.id, expired=False)
    if not (await world.state(run.id)).final:
        assert admitted == []
        await world.store.append(subject.fence, changed(await world.get(run.id), RunState.CANCELLED))
    assert admitted == [second.id]
    assert await world.store.waiting(PROJECT, run.thread_id) == [third.id]
    active = await world.store.active(PROJECT, run.thread_id)
    assert active is not None
    assert (active.id, active.status.state, active.last_sequence) == (second.id, RunState.QUEUED, 1)
    assert active.status.expire_time is not None
    assert active.status.expire_time > datetime.now(UTC), "its time begins when it gets the thread"
    assert await world.store.unfinished() == [second.id]
    rows = [
        row for row in (await world.everything())["messages"] if run.thread_id in row and "and?" in repr(row)
    ]
    assert len(rows) == 1
    assert await world.store.claim(third.id, takeover=True) is None
    claim: Claim | None = await world.store.claim(second.id, takeover=False)
    assert claim is not None


ENDINGS = {
    RunState.CANCELLED: (StepState.CANCELLED, MessageIncompleteReason.RUN_CANCELLED),
    RunState.EXPIRED: (StepState.EXPIRED, MessageIncompleteReason.RUN_EXPIRED),
    RunState.FAILED: (StepState.FAILED, MessageIncompleteReason.RUN_FAILED),
    RunState.INCOMPLETE: (StepState.INCOMPLETE, MessageIncompleteReason.MAX_OUTPUT_TOKENS),
}


@pytest.mark.parametrize("state", ENDINGS)
async def test_what_a_run_left_open_ends_with_it(world: World, state: RunState) -> None:
    subject = await (cancelling(world) if state is RunState.CANCELLED else in_progress(world))
    run = await world.get(subject.run_id)
    step, message = step_of(run, MessageCreation(message_id="msg_1")), message_of(run, "msg_1")
    error = RunError(code=RunErrorCode.SERVER_ERROR, message="why") if state is RunState.FAILED else None
    reason = RunIncompleteReason.MAX_OUTPUT_TOKENS if state is RunState.INCOMPLETE else None
    status = replace(run.status, state=state, error=error, incomplete_reason=reason)
    events = ending(status, [step], [message], datetime.now(UTC))
    await world.store.append(subject.fence, [StepChanged(step), MessageChanged(message), *events])
    ended = await world.store.get_step(PROJECT, run.id, step.id)
    assert ended is not None
    step_state, message_reason = ENDINGS[state]
    assert (ended.state, ended.error) == (step_state, error)
    row = next(row for row in (await world.everything())["messages"] if "msg_1" in row)
    assert {MessageState.INCOMPLETE, message_reason} <= set(row)


async def test_no_end_comes_before_its_beginning_when_the_clock_was_set_back(world: World) -> None:
    subject = await in_progress(world)
    run = await world.get(subject.run_id)
    step, message = step_of(run, MessageCreation(message_id="msg_1")), message_of(run, "msg_1")
    earlier = datetime.now(UTC) - timedelta(days=1)
    *closed, last = ending(replace(run.status, state=RunState.EXPIRED), [step], [message], earlier)
    assert isinstance(last, RunChanged)
    assert last.status.start_time is not None
    assert last.status.end_time is not None
    assert last.status.end_time >= last.status.start_time
    for event in closed:
        match event:
            case StepChanged(step=value):
                assert value.end_time is not None
                assert value.end_time >= value.create_time
            case MessageChanged(message=value):
                assert value.end_time is not None
                assert value.end_time >= value.create_time
