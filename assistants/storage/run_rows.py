"""Rows of runs and their steps, to read."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import sqlalchemy as sa

from assistants.domain.message import Message, MessageState
from assistants.domain.ports import IdleRun
from assistants.domain.run import Run, RunStatus
from assistants.domain.run_states import RunState
from assistants.domain.run_step import RunStep
from assistants.domain.times import CLOCK_SLACK, from_micros, to_micros
from assistants.storage.codec import RUN_SETTINGS, RUN_STATUS, RUN_STEP, STRING_MAP
from assistants.storage.connection import Connection, Record
from assistants.storage.messages import decode_message
from assistants.storage.paging import PagedSelect
from assistants.storage.tables import MESSAGES, RUN_STEPS, RUNS

_c = RUNS.c
_s = RUN_STEPS.c
_OF_PROJECT = _c.project_id == sa.bindparam("project_id")
_BY_ID = sa.select(RUNS).where(_OF_PROJECT, _c.id == sa.bindparam("id"))
# Written as the condition of the partial index is: IS 1 would not use it.
_HOLDS_THREAD = _c.holds_thread == sa.true()
_ACTIVE = sa.select(RUNS).where(_c.thread_id == sa.bindparam("thread_id"), _HOLDS_THREAD)
# Active runs are few, and the partial index holds just them.
_UNFINISHED = (
    sa.select(_c.id)
    .where(
        _HOLDS_THREAD,
        _c.state.in_([RunState.QUEUED, RunState.IN_PROGRESS, RunState.CANCELLING]),
    )
    .order_by(_c.create_time, _c.id)
)
# With every event a run gets its whole time to expire again.
_PROGRESS = _c.expire_time - _c.ttl
_IDLE = (
    sa.select(_c.id, _c.state)
    .where(
        _HOLDS_THREAD,
        sa.or_(
            sa.and_(
                # IN would be expanded before there are values.
                sa.or_(_c.state == RunState.QUEUED.value, _c.state == RunState.CANCELLING.value),
                sa.bindparam("waiting_since") >= _PROGRESS,
            ),
            sa.and_(_c.state == RunState.IN_PROGRESS.value, sa.bindparam("executing_since") >= _PROGRESS),
        ),
    )
    .order_by(_c.create_time, _c.id)
)
_TIME_IS_WRONG = sa.or_(
    _c.expire_time <= sa.bindparam("now"),
    _c.expire_time > sa.bindparam("now") + _c.ttl + sa.bindparam("slack"),
)
_OVERDUE = sa.select(RUNS).where(_HOLDS_THREAD, _TIME_IS_WRONG)
_OVERDUE_WAITING = sa.select(RUNS).where(_c.waiting_rank.is_not(None), _TIME_IS_WRONG)
_STEPS = sa.select(_s.step_json).where(_s.run_id == sa.bindparam("run_id")).order_by(_s.index)
_STEP = sa.select(_s.step_json).where(
    _s.project_id == sa.bindparam("project_id"),
    _s.run_id == sa.bindparam("run_id"),
    _s.id == sa.bindparam("id"),
)
_OPEN_MESSAGES = sa.select(MESSAGES).where(
    MESSAGES.c.project_id == sa.bindparam("project_id"),
    MESSAGES.c.run_id == sa.bindparam("run_id"),
    MESSAGES.c.state == MessageState.IN_PROGRESS,
)

LIST = PagedSelect(RUNS, _OF_PROJECT)
LIST_OF_THREAD = PagedSelect(RUNS, _OF_PROJECT, _c.thread_id == sa.bindparam("thread_id"))
LIST_STEPS = PagedSelect(
    RUN_STEPS, _s.project_id == sa.bindparam("project_id"), _s.run_id == sa.bindparam("run_id")
)


def get_run(connection: Connection, project_id: str, run_id: str) -> Run | None:
    """None when there is none."""
    row = connection.execute(_BY_ID, {"project_id": project_id, "id": run_id}).first()
    return None if row is None else decode_run(row)


def get_active(connection: Connection, project_id: str, thread_id: str) -> Run | None:
    """The run that holds the thread."""
    row = connection.execute(_ACTIVE, {"thread_id": thread_id}).first()
    return None if row is None or row.project_id != project_id else decode_run(row)


def unfinished_ids(connection: Connection) -> Sequence[str]:
    """Runs of all projects that somebody has to execute, oldest first."""
    return connection.execute(_UNFINISHED).scalars()


def idle_runs(connection: Connection, waiting_since: int, executing_since: int) -> Sequence[IdleRun]:
    """Runs of all projects that wait for an executor and have made no progress since a time."""
    parameters = {"waiting_since": waiting_since, "executing_since": executing_since}
    return [
        IdleRun(run_id=row.id, state=RunState(row.state)) for row in connection.execute(_IDLE, parameters)
    ]


def overdue_runs(connection: Connection, now: int) -> Sequence[Run]:
    """Runs of all projects whose time to expire has come, or is later than it can be."""
    parameters = {"now": now, "slack": CLOCK_SLACK // timedelta(microseconds=1)}
    return [
        decode_run(row)
        for select in (_OVERDUE, _OVERDUE_WAITING)
        for row in connection.execute(select, parameters)
    ]


def get_steps(connection: Connection, run_id: str) -> tuple[RunStep, ...]:
    """All steps, in order."""
    return tuple(RUN_STEP.load(text) for text in connection.execute(_STEPS, {"run_id": run_id}).scalars())


def get_step(connection: Connection, project_id: str, run_id: str, step_id: str) -> RunStep | None:
    """None when there is none."""
    parameters = {"project_id": project_id, "run_id": run_id, "id": step_id}
    text = connection.execute(_STEP, parameters).scalar()
    return None if text is None else RUN_STEP.load(text)


def open_messages(connection: Connection, project_id: str, run_id: str) -> Sequence[Message]:
    """Messages that the run has begun and not ended."""
    parameters = {"project_id": project_id, "run_id": run_id}
    return [decode_message(row) for row in connection.execute(_OPEN_MESSAGES, parameters)]


def decode_step(row: Record) -> RunStep:
    """The step of a row."""
    return RUN_STEP.load(row.step_json)


def encode_run(run: Run, *, epoch: int) -> dict[str, object]:
    """The columns of a run that does not wait for its thread, but for those that say so."""
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


def encode_status(status: RunStatus) -> dict[str, object]:
    """The columns that a status fills."""
    return {
        "state": status.state,
        "holds_thread": not status.state.final,
        "status_json": RUN_STATUS.dump(status),
        "expire_time": status.expire_time and to_micros(status.expire_time),
        "retained_since": to_micros(status.end_time) if status.state.final and status.end_time else None,
    }


def decode_run(row: Record) -> Run:
    """The run of a row. Time to expire moves with every event, so its column is newer than the status."""
    status = RUN_STATUS.load(row.status_json)
    if row.expire_time is not None:
        status = replace(status, expire_time=from_micros(row.expire_time))
    return Run(
        id=row.id,
        project_id=row.project_id,
        thread_id=row.thread_id,
        assistant_id=row.assistant_id,
        settings=RUN_SETTINGS.load(row.settings_json),
        status=status,
        metadata=STRING_MAP.load(row.metadata_json),
        create_time=from_micros(row.create_time),
        last_sequence=row.last_sequence,
        traceparent=row.traceparent,
    )
