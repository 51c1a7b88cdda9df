"""Runs in the database: the hot path. Every change is an event, applied and appended in one transaction."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import sqlalchemy as sa

from assistants.domain.errors import Fenced, NotFound
from assistants.domain.message import Message
from assistants.domain.names import run_name
from assistants.domain.page import Page, PageRequest
from assistants.domain.ports import Claim, Fence, RequestKey, Submitted
from assistants.domain.run import Run
from assistants.domain.run_claim import claimed_status
from assistants.domain.run_ending import ending
from assistants.domain.run_event import (
    EventBody,
    MessageChanged,
    RunChanged,
    RunEvent,
    StepChanged,
    TextDelta,
    ToolCallDelta,
)
from assistants.domain.run_states import TRANSITIONS, RunState, check_transition
from assistants.domain.run_step import RunStep, StepState, ToolCalls
from assistants.domain.run_submission import submission
from assistants.domain.times import now_micros, to_micros
from assistants.domain.tool import ToolOutput
from assistants.storage import run_rows
from assistants.storage.codec import RUN_SETTINGS, STRING_MAP
from assistants.storage.connection import Connection
from assistants.storage.event_log import SqliteEventLog
from assistants.storage.messages import insert_message
from assistants.storage.requests import made_before
from assistants.storage.run_events import AppendPlace, append_events, encode_status, insert_events, next_place
from assistants.storage.sqlite import SqliteDatabase
from assistants.storage.tables import RUNS
from assistants.storage.threads import require_idle

_c = RUNS.c
_P_ID = _c.id == sa.bindparam("p_id")
_INSERT = sa.insert(RUNS)
_PROJECT_OF = sa.select(_c.project_id, _c.state).where(_c.id == sa.bindparam("p_id"))
_TAKE = (
    sa.update(RUNS)
    .where(_P_ID)
    .values(epoch=_c.epoch + 1, attempt=_c.attempt + 1)
    .returning(_c.epoch, _c.attempt, _c.forgiven_attempt, _c.attempt_traceparent)
)
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


class SqliteRunStore:
    """RunStore on SQLite; appends to `event_log` in the same transactions."""

    def __init__(self, database: SqliteDatabase, event_log: SqliteEventLog) -> None:
        self._database = database
        self._event_log = event_log

    async def create(
        self, run: Run, messages: Sequence[Message], request: RequestKey | None, *, claim: Claim | None
    ) -> Run:
        """Stores a queued run and the messages before it, already taken if there is a `claim`."""
        events = [RunChanged(run.status)]
        if claim is not None:
            events.append(RunChanged(claim.run.status))
        stored = replace(claim.run if claim else run, last_sequence=len(events))

        def job(connection: Connection) -> tuple[Run, Sequence[RunEvent]]:
            read = partial(run_rows.get_run, connection, run.project_id)
            if existing := made_before(connection, run.project_id, request, run.id, read):
                return existing, ()
            require_idle(connection, run.thread_id, project_id=run.project_id)
            for message in messages:
                insert_message(connection, message)
            connection.execute(_INSERT, _encode(stored, epoch=claim.fence.epoch if claim else 0))
            now = datetime.now(UTC)
            numbered = [
                RunEvent(sequence=sequence, attempt=event.status.attempt, event_time=now, body=event)
                for sequence, event in enumerate(events, 1)
            ]
            insert_events(connection, run.project_id, run.id, numbered)
            return stored, numbered

        created, _ = await self._database.write(
            job, on_commit=lambda result: self._publish(run.id, result[1])
        )
        return created

    async def claim(self, run_id: str, *, takeover: bool) -> Claim | None:
        """Takes a queued run, or with `takeover` one that was being executed."""
        takeable = {RunState.QUEUED}
        if takeover:
            takeable |= {RunState.IN_PROGRESS, RunState.CANCELLING}

        def job(connection: Connection) -> tuple[Claim | None, Sequence[RunEvent]]:
            row = connection.execute(_PROJECT_OF, {"p_id": run_id}).first()
            if row is None or row.state not in takeable:
                return None, ()
            run = run_rows.get_run(connection, row.project_id, run_id)
            assert run is not None
            return _take(connection, run, run_rows.get_steps(connection, run_id))

        claim, _ = await self._database.write(job, on_commit=lambda result: self._publish(run_id, result[1]))
        return claim

    async def append(self, fence: Fence, events: Sequence[EventBody]) -> int:
        """Appends events and applies them; raises Fenced when they do not continue the run."""
        durable = any(_must_last(event) for event in events)

        def job(connection: Connection) -> Sequence[RunEvent]:
            now = now_micros()
            row = connection.execute(
                _FENCE, {"p_id": fence.run_id, "p_epoch": fence.epoch, "count": len(events), "now": now}
            ).first()
            if row is None or not _continues(RunState(row.state), events):
                raise Fenced(fence.run_id)
            target = AppendPlace(
                project_id=fence.project_id,
                run_id=fence.run_id,
                attempt=row.attempt,
                first_sequence=row.last_sequence - len(events) + 1,
                time=now,
            )
            return append_events(connection, target, events)

        stored: Sequence[RunEvent] = await self._database.write(
            job, durable=durable, on_commit=partial(self._publish, fence.run_id)
        )
        return stored[-1].sequence

    async def submit(
        self, run: Run, outputs: Sequence[ToolOutput], request: RequestKey | None, *, take: bool
    ) -> Submitted:
        """Completes the step of the open calls and queues the run, or takes it at once with `take`."""

        def job(connection: Connection) -> tuple[Submitted, Sequence[RunEvent]]:
            read = partial(run_rows.get_run, connection, run.project_id)
            if existing := made_before(connection, run.project_id, request, run.id, read):
                return Submitted(run=existing, claim=None), ()
            current = read(run.id)
            if current is None:
                raise NotFound("run", run_name(run.thread_id, run.id))
            steps = run_rows.get_steps(connection, run.id)
            events = submission(current, steps, outputs, datetime.now(UTC))
            place = next_place(connection, current, attempt=current.status.attempt, count=len(events))
            stored = append_events(connection, place, events)
            queued = read(run.id)
            assert queued is not None
            if not take:
                return Submitted(run=queued, claim=None), stored
            claim, taken = _take(connection, queued, run_rows.get_steps(connection, run.id))
            return Submitted(run=claim.run, claim=claim), (*stored, *taken)

        submitted, _ = await self._database.write(
            job, on_commit=lambda result: self._publish(run.id, result[1])
        )
        return submitted

    async def end_idle(self, project_id: str, run_id: str, *, expired: bool) -> Run | None:
        """Ends a run that nobody executes; one in progress becomes cancelling, unless `expired`."""

        def job(connection: Connection) -> tuple[Run | None, Sequence[RunEvent]]:
            run = run_rows.get_run(connection, project_id, run_id)
            if run is None or run.status.state.final or run.status.state is RunState.CANCELLING:
                return run, ()
            if expired and not _is_overdue(run, datetime.now(UTC)):
                return run, ()  # it went on since it was looked at
            if run.status.state is RunState.IN_PROGRESS:
                if expired:
                    return run, ()
                events: Sequence[EventBody] = [RunChanged(replace(run.status, state=RunState.CANCELLING))]
            else:
                state = RunState.EXPIRED if expired else RunState.CANCELLED
                check_transition(run.status.state, state)
                events = ending(
                    replace(run.status, state=state),
                    run_rows.get_steps(connection, run_id),
                    run_rows.open_messages(connection, project_id, run_id),
                    datetime.now(UTC),
                )
            target = next_place(connection, run, attempt=run.status.attempt, count=len(events))
            stored = append_events(connection, target, events)
            return run_rows.get_run(connection, project_id, run_id), stored

        run, _ = await self._database.write(job, on_commit=lambda result: self._publish(run_id, result[1]))
        return run

    async def get(self, project_id: str, run_id: str) -> Run | None:
        """None when there is none."""
        return self._database.read(lambda connection: run_rows.get_run(connection, project_id, run_id))

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
        return self._database.read(lambda connection: run_rows.get_active(connection, project_id, thread_id))

    def let_go(self, fence: Fence) -> None:
        """Forgives the attempt: the server stops, and the next one takes the run over. Does not wait."""
        parameters = {"p_id": fence.run_id, "p_epoch": fence.epoch}
        self._database.write(lambda connection: connection.execute(_LET_GO, parameters), durable=False)

    def set_attempt_traceparent(self, fence: Fence, traceparent: str) -> None:
        """Remembers the trace context of the attempt, for the next one to link to. Does not wait."""
        parameters = {
            "p_id": fence.run_id,
            "p_epoch": fence.epoch,
            "attempt_traceparent": traceparent,
        }
        self._database.write(
            lambda connection: connection.execute(_SET_ATTEMPT_TRACE, parameters), durable=False
        )

    async def get_step(self, project_id: str, run_id: str, step_id: str) -> RunStep | None:
        """None when there is none."""
        return self._database.read(
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

    async def overdue(self, now: datetime) -> Sequence[Run]:
        """Active runs whose time to expire has come."""
        return await self._database.scan(lambda connection: run_rows.overdue_runs(connection, to_micros(now)))

    def _publish(self, run_id: str, events: Sequence[RunEvent]) -> None:
        if events:
            self._event_log.publish(run_id, events)


def _is_overdue(run: Run, now: datetime) -> bool:
    return run.status.expire_time is not None and run.status.expire_time <= now


def _completed_in(steps: tuple[RunStep, ...]) -> Iterator[int]:
    return (step.attempt for step in steps if step.end_time is not None)


def _take(connection: Connection, run: Run, steps: tuple[RunStep, ...]) -> tuple[Claim, Sequence[RunEvent]]:
    """A new epoch and attempt."""
    row = connection.execute(_TAKE, {"p_id": run.id}).one()
    status = claimed_status(run, row.attempt)
    place = next_place(connection, run, attempt=row.attempt, count=1)
    events = append_events(connection, place, [RunChanged(status)])
    claim = Claim(
        run=replace(run, status=status, last_sequence=events[-1].sequence),
        fence=Fence(project_id=run.project_id, thread_id=run.thread_id, run_id=run.id, epoch=row.epoch),
        steps=steps,
        previous_traceparent=row.attempt_traceparent,
        fruitless_attempts=row.attempt - 1 - max((row.forgiven_attempt, *_completed_in(steps))),
    )
    return claim, events


def _continues(state: RunState, events: Sequence[EventBody]) -> bool:
    """Whether events may follow a state: a run that is cancelling takes only its end."""
    changes = [event.status.state for event in events if isinstance(event, RunChanged)]
    if not changes:
        return state is RunState.IN_PROGRESS
    return changes[0] in TRANSITIONS[state]


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


def _encode(run: Run, *, epoch: int) -> dict[str, object]:
    return {
        "id": run.id,
        "project_id": run.project_id,
        "thread_id": run.thread_id,
        "assistant_id": run.assistant_id,
        "epoch": epoch,
        "attempt": run.status.attempt,
        "forgiven_attempt": 0,
        "last_sequence": run.last_sequence,
        "settings_json": RUN_SETTINGS.dump(run.settings),
        "ttl": round(run.settings.ttl_s * 1_000_000),
        "metadata_json": STRING_MAP.dump(dict(run.metadata)),
        "traceparent": run.traceparent,
        "create_time": to_micros(run.create_time),
        **encode_status(run.status),
    }
