"""Rows of runs and their steps, to read."""

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from assistants.domain.message import Message, MessageState
from assistants.domain.run import Run
from assistants.domain.run_states import RunState
from assistants.domain.run_step import RunStep
from assistants.domain.times import from_micros
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
_OVERDUE = sa.select(RUNS).where(_HOLDS_THREAD, _c.expire_time <= sa.bindparam("now"))
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


def overdue_runs(connection: Connection, now: int) -> Sequence[Run]:
    """Active runs of all projects whose time to expire has come."""
    return [decode_run(row) for row in connection.execute(_OVERDUE, {"now": now})]


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
