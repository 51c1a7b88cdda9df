"""Runs in the database: the hot path. Every change is an event, applied and appended in one transaction."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import sqlalchemy as sa

from assistants.domain.errors import Fenced, NotFound
from assistants.domain.message import Message
from assistants.domain.names import run_name
from assistants.domain.page import Page, PageRequest
from assistants.domain.ports import Claim, Created, Fence, IdleRun, RequestKey, Submitted
from assistants.domain.run import ConcurrencyPolicy, Run
from assistants.domain.run_event import (
    EventBody,
    MessageChanged,
    RunChanged,
    RunEvent,
    StepChanged,
    TextDelta,
    ToolCallDelta,
)
from assistants.domain.run_states import Actor, RunState, may_follow
from assistants.domain.run_step import RunStep, StepState, ToolCalls
from assistants.domain.run_submission import submission
from assistants.domain.thread import Thread
from assistants.domain.times import now_micros, to_micros
from assistants.domain.tool import ToolOutput
from assistants.storage import run_rows, run_turns
from assistants.storage.codec import STRING_MAP
from assistants.storage.connection import Connection
from assistants.storage.database import Database
from assistants.storage.event_log import SqlEventLog
from assistants.storage.messages import insert_message
from assistants.storage.requests import made_before
from assistants.storage.run_changes import RunChanges
from assistants.storage.run_events import AppendPlace, insert_events, next_place
from assistants.storage.tables import RUNS
from assistants.storage.threads import insert_thread

T = TypeVar("T")
RunJob = Callable[[RunChanges], T]
"""What a transaction does to runs; it may be done again, as jobs of a database may."""

_c = RUNS.c
_P_ID = _c.id == sa.bindparam("p_id")
_INSERT = sa.insert(RUNS)
# Fences, takes the sequences and postpones expiry in one statement.
_FENCE = (
    sa.update(RUNS)
    .where(
        _P_ID,
        _c.epoch == sa.bindparam("p_epoch"),
        # IN would be expanded anew at each call.
        sa.or_(_c.state == RunState.IN_PROGRESS.value, _c.state == RunState.CANCELLING.value),
    )
    .values(last_sequence=_c.last_sequence + sa.bindparam("count"), expire_time=sa.bindparam("now") + _c.ttl)
    .returning(_c.last_sequence, _c.state, _c.attempt, _c.expire_time)
)
_RENEW = (
    sa.update(RUNS)
    .where(
        _P_ID, _c.project_id == sa.bindparam("p_project_id"), _c.expire_time.is_not(None)
    )  # one that has ended has none
    .values(expire_time=sa.bindparam("now") + _c.ttl)
)
_SET_METADATA = (
    sa.update(RUNS)
    .where(_P_ID, _c.project_id == sa.bindparam("p_project_id"))
    .values(metadata_json=sa.bindparam("metadata_json"))
)
_LET_GO = (
    sa.update(RUNS).where(_P_ID, _c.epoch == sa.bindparam("p_epoch")).values(forgiven_attempt=_c.attempt)
)
_SET_ATTEMPT_TRACE = (
    sa.update(RUNS)
    .where(_P_ID, _c.epoch == sa.bindparam("p_epoch"))
    .values(attempt_traceparent=sa.bindparam("attempt_traceparent"))
)


class SqlRunStore:
    """RunStore; appends to `event_log` in the same transactions."""

    def __init__(self, database: Database, event_log: SqlEventLog) -> None:
        self._database = database
        self._event_log = event_log
        self._admitted: list[Callable[[str], None]] = []

    async def create(
        self,
        run: Run,
        messages: Sequence[Message],
        request: RequestKey | None,
        *,
        claim: Claim | None,
        thread: Thread | None = None,
    ) -> Created:
        """Stores a queued run and the messages before it, already taken if there is a `claim`."""

        def job(changes: RunChanges) -> Created:
            connection = changes.connection
            read = partial(run_rows.get_run, connection, run.project_id)
            if existing := made_before(connection, run.project_id, request, run.id, read):
                return Created(run=existing)
            holder: Run | None = None
            if thread is not None:
                insert_thread(connection, thread)
            else:
                holder = run_turns.lock_holder(connection, run)
            if holder is not None:
                return _create_waiting(changes, run, messages, holder)
            for message in messages:
                insert_message(connection, message)
            statuses = [run.status] if claim is None else [run.status, claim.run.status]
            stored = replace(claim.run if claim else run, last_sequence=len(statuses))
            epoch = 0 if claim is None else claim.fence.epoch
            _insert(changes, stored, [RunChanged(status) for status in statuses], epoch=epoch)
            return Created(run=stored)

        while True:
            try:
                return await self._write(run.id, job)
            except run_turns.HolderChanged:
                continue  # rare: two runs of one thread met while a third ended

    async def claim(self, run_id: str, *, takeover: bool) -> Claim | None:
        """Takes a queued run, or with `takeover` one that was being executed."""

        def job(changes: RunChanges) -> Claim | None:
            place = run_turns.lock_run(changes.connection, run_id)
            if place is None or not place.holds_thread:
                return None
            run = run_rows.get_run(changes.connection, place.project_id, run_id)
            assert run is not None
            state = run.status.state
            taken_over = takeover and state in (RunState.IN_PROGRESS, RunState.CANCELLING)
            if state is not RunState.QUEUED and not taken_over:
                return None
            return changes.take(run, run_rows.get_steps(changes.connection, run_id))

        return await self._write(run_id, job)

    async def append(self, fence: Fence, events: Sequence[EventBody]) -> int:
        """Appends events and applies them; raises Fenced when they do not continue the run."""

        def job(changes: RunChanges) -> int:
            now = now_micros()
            row = changes.connection.execute(
                _FENCE, {"p_id": fence.run_id, "p_epoch": fence.epoch, "count": len(events), "now": now}
            ).first()
            if row is None or not _continues(RunState(row.state), events):
                raise Fenced(fence.run_id)
            place = AppendPlace(
                project_id=fence.project_id,
                run_id=fence.run_id,
                attempt=row.attempt,
                first_sequence=row.last_sequence - len(events) + 1,
                time=now,
            )
            return changes.append(place, events, thread_id=fence.thread_id)[-1].sequence

        durable = any(_must_last(event) for event in events)
        return await self._write(fence.run_id, job, durable=durable)

    async def submit(
        self, run: Run, outputs: Sequence[ToolOutput], request: RequestKey | None, *, take: bool
    ) -> Submitted:
        """Completes the step of the open calls and queues the run, or takes it at once with `take`."""

        def job(changes: RunChanges) -> Submitted:
            connection = changes.connection
            read = partial(run_rows.get_run, connection, run.project_id)
            if existing := made_before(connection, run.project_id, request, run.id, read):
                return Submitted(run=existing, claim=None)
            run_turns.lock_run(connection, run.id)
            current = read(run.id)
            if current is None:
                raise NotFound("run", run_name(run.thread_id, run.id))
            steps = run_rows.get_steps(connection, run.id)
            events = submission(current, steps, outputs, datetime.now(UTC))
            place = next_place(connection, current, attempt=current.status.attempt, count=len(events))
            changes.append(place, events, thread_id=run.thread_id)
            queued = read(run.id)
            assert queued is not None
            if not take:
                return Submitted(run=queued, claim=None)
            claim = changes.take(queued, run_rows.get_steps(connection, run.id))
            return Submitted(run=claim.run, claim=claim)

        return await self._write(run.id, job)

    async def end_idle(self, project_id: str, run_id: str, *, expired: bool) -> Run | None:
        """Ends a run that nobody executes; one in progress becomes cancelling, unless `expired`."""

        def job(changes: RunChanges) -> Run | None:
            place = run_turns.lock_run(changes.connection, run_id)
            run = run_rows.get_run(changes.connection, project_id, run_id)
            now = datetime.now(UTC)
            if place is None or run is None:
                return None
            if expired:
                # It may have gone on since it was looked at.
                if _is_overdue(run, now) and may_follow(run.status.state, RunState.EXPIRED, Actor.EXPIRER):
                    changes.end(run, RunState.EXPIRED, now, by=Actor.EXPIRER, holds_thread=place.holds_thread)
            elif not run.status.state.final and run.status.state is not RunState.CANCELLING:
                changes.cancel(run, now, holds_thread=place.holds_thread)
            return run_rows.get_run(changes.connection, project_id, run_id)

        return await self._write(run_id, job)

    async def renew(self, project_id: str, run_id: str) -> None:
        """Gives a run that has not ended its whole time to expire again: the clock was set."""
        parameters = {"p_id": run_id, "p_project_id": project_id, "now": now_micros()}
        await self._database.write(lambda c: c.execute(_RENEW, parameters), durable=False, key=run_id)

    async def get(self, project_id: str, run_id: str) -> Run | None:
        """None when there is none."""
        return await self._database.read(lambda connection: run_rows.get_run(connection, project_id, run_id))

    async def list(self, project_id: str, thread_id: str | None, page: PageRequest) -> Page[Run]:
        """One page, of one thread or of all."""
        select, parameters = run_rows.LIST, {"project_id": project_id}
        if thread_id is not None:
            select, parameters = run_rows.LIST_OF_THREAD, {**parameters, "thread_id": thread_id}
        return await self._database.scan(
            lambda connection: select.page(connection, page, parameters, run_rows.decode_run)
        )

    async def set_metadata(self, project_id: str, run_id: str, metadata: Mapping[str, str]) -> Run | None:
        """Replaces the metadata; None when there is no such run."""

        def job(connection: Connection) -> Run | None:
            parameters = {"p_id": run_id, "p_project_id": project_id}
            connection.execute(
                _SET_METADATA, {**parameters, "metadata_json": STRING_MAP.dump(dict(metadata))}
            )
            return run_rows.get_run(connection, project_id, run_id)

        return await self._database.write(job)

    async def active(self, project_id: str, thread_id: str) -> Run | None:
        """The run that holds the thread."""
        return await self._database.read(
            lambda connection: run_rows.get_active(connection, project_id, thread_id)
        )

    async def waiting(self, project_id: str, thread_id: str) -> Sequence[str]:
        """Ids of the runs that wait for the thread, in the order in which they get it."""
        return await self._database.read(
            lambda connection: run_turns.waiting_ids(connection, project_id, thread_id)
        )

    def on_admitted(self, listener: Callable[[str], None]) -> None:
        """Calls `listener(run_id)` on the loop when a waiting run has got its thread and can be claimed."""
        self._admitted.append(listener)

    def let_go(self, fence: Fence) -> Awaitable[object]:
        """Forgives the attempt: the server stops, and the next one takes the run over. Begins at once."""
        parameters = {"p_id": fence.run_id, "p_epoch": fence.epoch}
        return self._database.write(
            lambda connection: connection.execute(_LET_GO, parameters), durable=False, key=fence.run_id
        )

    def set_attempt_traceparent(self, fence: Fence, traceparent: str) -> None:
        """Remembers the trace context of the attempt, for the next one to link to. Does not wait."""
        parameters = {
            "p_id": fence.run_id,
            "p_epoch": fence.epoch,
            "attempt_traceparent": traceparent,
        }
        self._database.write(
            lambda connection: connection.execute(_SET_ATTEMPT_TRACE, parameters),
            durable=False,
            key=fence.run_id,
        )

    async def get_step(self, project_id: str, run_id: str, step_id: str) -> RunStep | None:
        """None when there is none."""
        return await self._database.read(
            lambda connection: run_rows.get_step(connection, project_id, run_id, step_id)
        )

    async def list_steps(self, project_id: str, run_id: str, page: PageRequest) -> Page[RunStep]:
        """One page."""
        parameters = {"project_id": project_id, "run_id": run_id}
        return await self._database.scan(
            lambda connection: run_rows.LIST_STEPS.page(connection, page, parameters, run_rows.decode_step)
        )

    async def unfinished(self) -> Sequence[str]:
        """Ids of the runs that somebody has to execute, oldest first."""
        return await self._database.scan(run_rows.unfinished_ids)

    async def idle(self, *, waiting_since: datetime, executing_since: datetime) -> Sequence[IdleRun]:
        """Runs that wait for an executor and have made no progress since a time."""
        times = to_micros(waiting_since), to_micros(executing_since)
        return await self._database.scan(lambda connection: run_rows.idle_runs(connection, *times))

    async def overdue(self, now: datetime) -> Sequence[Run]:
        """Runs whose time to expire has come, or is later than it can be."""
        return await self._database.scan(lambda connection: run_rows.overdue_runs(connection, to_micros(now)))

    async def _write(self, run_id: str, job: RunJob[T], *, durable: bool = True) -> T:
        """Does `job` in a transaction, in the order of calls for a run, and tells what it has changed."""

        def record(connection: Connection) -> tuple[T, RunChanges]:
            changes = RunChanges(connection)
            return job(changes), changes

        def tell(done: tuple[T, RunChanges]) -> None:
            for changed_id, events in done[1].events:
                self._event_log.publish(changed_id, events)
            for admitted_id in done[1].admitted:
                for listener in self._admitted:
                    listener(admitted_id)

        result, _ = await self._database.write(record, durable=durable, on_commit=tell, key=run_id)
        return result


def _create_waiting(changes: RunChanges, run: Run, messages: Sequence[Message], holder: Run) -> Created:
    """Stores a run that waits for its thread, and cancels what it interrupts."""
    connection = changes.connection
    run_turns.require_room(connection, run)
    stored = replace(run, last_sequence=1)
    waiting = run_turns.waiting_values(run, messages)
    _insert(changes, stored, [RunChanged(run.status)], epoch=0, waiting=waiting)
    if run.settings.concurrency is not ConcurrencyPolicy.INTERRUPT:
        return Created(run=stored, waits=True)
    now = datetime.now(UTC)
    for run_id in run_turns.overtaken_ids(connection, run):
        run_turns.lock_run(connection, run_id)
        overtaken = run_rows.get_run(connection, run.project_id, run_id)
        if overtaken is not None and not overtaken.status.state.final:
            changes.cancel(overtaken, now, holds_thread=False)
    if holder.status.state is not RunState.CANCELLING:
        changes.cancel(holder, now, holds_thread=True)
    interrupted = run_rows.get_run(connection, run.project_id, holder.id)
    return Created(run=stored, waits=run.id not in changes.admitted, interrupted=interrupted)


def _insert(
    changes: RunChanges,
    run: Run,
    events: Sequence[RunChanged],
    *,
    epoch: int,
    waiting: Mapping[str, object] | None = None,
) -> None:
    """Stores a new run as its `events` leave it."""
    row = {**run_rows.encode_run(run, epoch=epoch), **(waiting or run_turns.NOT_WAITING)}
    changes.connection.execute(_INSERT, row)
    now = datetime.now(UTC)
    numbered = [
        RunEvent(sequence=sequence, attempt=body.status.attempt, event_time=now, body=body)
        for sequence, body in enumerate(events, 1)
    ]
    insert_events(changes.connection, run.project_id, run.id, numbered)
    changes.events.append((run.id, numbered))


def _is_overdue(run: Run, now: datetime) -> bool:
    return run.status.expire_time is not None and run.status.expire_time <= now


def _continues(state: RunState, events: Sequence[EventBody]) -> bool:
    """Whether its executor may append events to a run: one that is cancelling takes only its end."""
    changes = [event.status.state for event in events if isinstance(event, RunChanged)]
    if not changes:
        return state is RunState.IN_PROGRESS
    return len(changes) == 1 and may_follow(state, changes[0], Actor.EXECUTOR)


def _must_last(event: EventBody) -> bool:
    """Whether losing the event with the power would lose more than a repeated turn."""
    match event:
        case TextDelta() | ToolCallDelta():
            return False
        case MessageChanged(message=message):
            return message.end_time is not None
        case StepChanged(step=step):
            return step.state is not StepState.IN_PROGRESS or _holds_calls(step)
        case RunChanged():
            return True


def _holds_calls(step: RunStep) -> bool:
    return isinstance(step.details, ToolCalls) and bool(step.details.calls)
