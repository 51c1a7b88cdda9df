"""Events into the database: each changes the rows that it tells of, then joins the journal."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from assistants.domain.run import Run
from assistants.domain.run_event import (
    EventBody,
    MessageChanged,
    RunChanged,
    RunEvent,
    StepChanged,
    TextDelta,
    ToolCallDelta,
)
from assistants.domain.run_step import RunStep
from assistants.domain.times import from_micros, now_micros, to_micros
from assistants.storage.codec import EVENT_BODY, RUN_STEP
from assistants.storage.connection import Connection, Record, upsert
from assistants.storage.messages import write_message
from assistants.storage.run_rows import encode_status
from assistants.storage.tables import RUN_EVENTS, RUN_STEPS, RUNS

_c = RUNS.c
_P_ID = _c.id == sa.bindparam("p_id")
_INSERT_EVENTS = sa.insert(RUN_EVENTS)
_WRITE_STEP = upsert(RUN_STEPS, ("id",), ("state", "step_json"))
_TAKE_SEQUENCES = (
    sa.update(RUNS)
    .where(_P_ID)
    .values(last_sequence=_c.last_sequence + sa.bindparam("count"))
    .returning(_c.last_sequence)
)
_TAKE_EPOCH = (
    sa.update(RUNS)
    .where(_P_ID)
    .values(epoch=_c.epoch + 1, attempt=_c.attempt + 1)
    .returning(_c.epoch, _c.attempt, _c.forgiven_attempt, _c.attempt_traceparent)
)
_SET_STATUS = (
    sa.update(RUNS)
    .where(_P_ID)
    .values(
        state=sa.bindparam("state"),
        holds_thread=sa.bindparam("holds_thread"),
        status_json=sa.bindparam("status_json"),
        expire_time=sa.bindparam("expire_time"),
        waiting_rank=sa.null(),
        waiting_messages_json=sa.null(),
        retained_since=sa.bindparam("retained_since"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendPlace:
    """Where in a journal events go."""

    project_id: str
    run_id: str
    attempt: int
    first_sequence: int
    time: int
    """In microseconds."""


def next_place(connection: Connection, run: Run, *, attempt: int, count: int) -> AppendPlace:
    """Takes the next `count` sequences of a run that nobody executes."""
    last = connection.execute(_TAKE_SEQUENCES, {"p_id": run.id, "count": count}).scalar()
    return AppendPlace(
        project_id=run.project_id,
        run_id=run.id,
        attempt=attempt,
        first_sequence=last - count + 1,
        time=now_micros(),
    )


def take_epoch(connection: Connection, run_id: str) -> Record:
    """Begins an epoch and an attempt; gives `epoch, attempt, forgiven_attempt, attempt_traceparent`."""
    return connection.execute(_TAKE_EPOCH, {"p_id": run_id}).one()


def append_events(
    connection: Connection, target: AppendPlace, events: Sequence[EventBody]
) -> Sequence[RunEvent]:
    """Applies the events to the rows and appends them; gives them with their sequences."""
    # Of several changes of one thing in a group, the rows show the last.
    for event in {_subject(event): event for event in events}.values():
        _apply(connection, target, event)
    time = from_micros(target.time)
    numbered = [
        RunEvent(sequence=sequence, attempt=target.attempt, event_time=time, body=event)
        for sequence, event in enumerate(events, target.first_sequence)
    ]
    insert_events(connection, target.project_id, target.run_id, numbered)
    return numbered


def insert_events(connection: Connection, project_id: str, run_id: str, events: Sequence[RunEvent]) -> None:
    """Appends events whose changes the rows show already."""
    connection.insert_many(
        _INSERT_EVENTS,
        [
            {
                "run_id": run_id,
                "sequence": event.sequence,
                "project_id": project_id,
                "attempt": event.attempt,
                "event_time": to_micros(event.event_time),
                "body_json": EVENT_BODY.dump(event.body),
            }
            for event in events
        ],
    )


def _subject(event: EventBody) -> str:
    """What an event is about."""
    match event:
        case RunChanged():
            return "run"
        case StepChanged(step=step):
            return step.id
        case MessageChanged(message=message):
            return message.id
        case TextDelta() | ToolCallDelta():
            return "delta"


def _apply(connection: Connection, target: AppendPlace, event: EventBody) -> None:
    """Makes the rows say what the event says."""
    match event:
        case RunChanged(status=status):
            connection.execute(_SET_STATUS, {"p_id": target.run_id, **encode_status(status)})
        case StepChanged(step=step):
            write_step(connection, step)
        case MessageChanged(message=message):
            write_message(connection, message)
        case TextDelta() | ToolCallDelta():
            pass


def write_step(connection: Connection, step: RunStep) -> None:
    """Stores a step, or its new value."""
    connection.execute(
        _WRITE_STEP,
        {
            "id": step.id,
            "project_id": step.project_id,
            "thread_id": step.thread_id,
            "run_id": step.run_id,
            "index": step.index,
            "state": step.state,
            "step_json": RUN_STEP.dump(step),
            "create_time": to_micros(step.create_time),
        },
    )
