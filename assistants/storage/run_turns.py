"""Whose turn it is on a thread: the run that holds it, and those that wait for it.

Locks are taken in one order, so that no two transactions wait for each other: the
run that holds the thread, the thread, the runs that wait.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa

from assistants.domain.errors import Overloaded, RunActive
from assistants.domain.ids import new_id
from assistants.domain.message import Message
from assistants.domain.names import run_name, thread_name
from assistants.domain.run import ConcurrencyPolicy, Run
from assistants.domain.times import to_micros
from assistants.storage import run_rows
from assistants.storage.codec import MESSAGES
from assistants.storage.connection import Connection, Record
from assistants.storage.messages import insert_message
from assistants.storage.tables import RUNS
from assistants.storage.threads import lock_and_see_holder, lock_thread

MAX_WAITING = 32
"""Most runs that wait for one thread."""
RETRY_AFTER_S = 1.0
"""When a client may try again that found as many."""
NOT_WAITING: Mapping[str, object] = {"waiting_rank": None, "waiting_messages_json": None}
"""The columns of a run that has its thread, or has ended."""

_c = RUNS.c
_P_ID = _c.id == sa.bindparam("p_id")
_RANKS = {ConcurrencyPolicy.INTERRUPT: 0, ConcurrencyPolicy.ENQUEUE: 1}
"""Who goes first."""
_PLACE = sa.select(_c.project_id, _c.holds_thread).where(_P_ID)
_LOCK = _PLACE.with_for_update()
_WAITING = (
    sa.select(_c.id, _c.waiting_rank)
    .where(
        _c.project_id == sa.bindparam("project_id"),
        _c.thread_id == sa.bindparam("thread_id"),
        _c.waiting_rank.is_not(None),
    )
    .order_by(_c.waiting_rank, _c.create_time, _c.id)
)
_NEXT = (
    sa.select(_c.id, _c.ttl, _c.waiting_messages_json)
    .where(_c.thread_id == sa.bindparam("thread_id"), _c.waiting_rank.is_not(None))
    .order_by(_c.waiting_rank, _c.create_time, _c.id)
    .limit(1)
)
# One that has ended while it was looked at no longer waits.
_ADMIT = (
    sa.update(RUNS)
    .where(_P_ID, _c.waiting_rank.is_not(None))
    .values(
        holds_thread=sa.true(),
        waiting_rank=sa.null(),
        waiting_messages_json=sa.null(),
        expire_time=sa.bindparam("now") + _c.ttl,
    )
)


class HolderChanged(Exception):
    """The thread went to another run before it was locked: the transaction has to look again."""


def lock_run(connection: Connection, run_id: str) -> Record | None:
    """Lets nobody else change the run until the transaction ends.

    Gives its `project_id`, and whether it `holds_thread`; None when there is no such run.
    """
    connection.lock(_LOCK, {"p_id": run_id})
    return connection.execute(_PLACE, {"p_id": run_id}).first()


def lock_holder(connection: Connection, run: Run) -> Run | None:
    """Locks the thread of a new run, and with the policy to interrupt the run that holds it; gives that.

    Raises:
        NotFound: the project has no such thread.
        RunActive: the thread is held, and the policy is to reject.
        HolderChanged: by another run than the one that was locked.
    """
    policy = run.settings.concurrency
    interrupted: Run | None = None
    if policy is ConcurrencyPolicy.INTERRUPT:
        interrupted = run_rows.get_active(connection, run.project_id, run.thread_id)
        if interrupted is not None:
            lock_run(connection, interrupted.id)
    holder = lock_and_see_holder(connection, run.thread_id, project_id=run.project_id)
    if holder is None:
        return None
    if policy is ConcurrencyPolicy.REJECT:
        raise RunActive(thread=thread_name(run.thread_id), run=run_name(run.thread_id, holder))
    if policy is ConcurrencyPolicy.INTERRUPT and (interrupted is None or interrupted.id != holder):
        raise HolderChanged
    return run_rows.get_run(connection, run.project_id, holder)


def waiting_values(run: Run, messages: Sequence[Message]) -> dict[str, object]:
    """The columns of a run that waits for its thread; with them it does not hold it."""
    return {
        "holds_thread": False,
        "waiting_rank": _RANKS[run.settings.concurrency],
        "waiting_messages_json": MESSAGES.dump(tuple(messages)),
    }


def require_room(connection: Connection, run: Run) -> None:
    """Raises Overloaded when as many runs as may wait for the thread do."""
    waiting = waiting_ids(connection, run.project_id, run.thread_id)
    if len(waiting) >= MAX_WAITING:
        thread = thread_name(run.thread_id)
        raise Overloaded(
            f"{len(waiting)} runs wait for {thread} already", retry_after_s=RETRY_AFTER_S, thread=thread
        )


def waiting_ids(connection: Connection, project_id: str, thread_id: str) -> Sequence[str]:
    """The runs that wait for a thread, in the order in which they get it."""
    parameters = {"project_id": project_id, "thread_id": thread_id}
    return [row.id for row in connection.execute(_WAITING, parameters)]


def overtaken_ids(connection: Connection, run: Run) -> Sequence[str]:
    """The waiting runs that would interrupt what a new one interrupts already."""
    parameters = {"project_id": run.project_id, "thread_id": run.thread_id}
    rank = _RANKS[ConcurrencyPolicy.INTERRUPT]
    return [
        row.id
        for row in connection.execute(_WAITING, parameters)
        if row.waiting_rank == rank and row.id != run.id
    ]


def admit_next(connection: Connection, project_id: str, thread_id: str) -> str | None:
    """Gives a thread whose run has ended to the next that waits, with its messages; gives that run's id."""
    lock_thread(connection, thread_id, project_id=project_id)
    while (row := connection.execute(_NEXT, {"thread_id": thread_id}).first()) is not None:
        now = datetime.now(UTC)
        if connection.execute(_ADMIT, {"p_id": row.id, "now": to_micros(now)}).rowcount == 0:
            continue
        # Entries of a thread are listed by time: these come after what was said while they waited.
        for message in MESSAGES.load(row.waiting_messages_json):
            insert_message(connection, replace(message, id=new_id("msg"), create_time=now, end_time=now))
        run_id: str = row.id
        return run_id
    return None
