"""All tables. Times are int64 microseconds since 1970 UTC; `*_json` is JSON text.

Every table has `project_id`, and every index of a list begins with it.
"""

from sqlalchemy import BigInteger, Column, Index, Table, Text, text
from sqlmodel import Field, SQLModel


def _micros(*, nullable: bool = False) -> Column[int]:
    return Column(BigInteger, nullable=nullable)


def _json() -> Column[str]:
    return Column(Text, nullable=False)


class AssistantRow(SQLModel, table=True):
    """Stored configurations."""

    __tablename__ = "assistants"
    __table_args__ = (Index("assistants_by_time", "project_id", "create_time", "id"),)

    id: str = Field(primary_key=True)
    project_id: str
    settings_json: str = Field(sa_column=_json())
    revision: int
    create_time: int = Field(sa_column=_micros())
    update_time: int = Field(sa_column=_micros())


class ThreadRow(SQLModel, table=True):
    """Stored conversations."""

    __tablename__ = "threads"
    __table_args__ = (Index("threads_by_time", "project_id", "create_time", "id"),)

    id: str = Field(primary_key=True)
    project_id: str
    metadata_json: str = Field(sa_column=_json())
    revision: int
    next_position: int
    history_version: int
    context_start: int
    create_time: int = Field(sa_column=_micros())
    update_time: int = Field(sa_column=_micros())


class MessageRow(SQLModel, table=True):
    """Entries of threads."""

    __tablename__ = "messages"
    __table_args__ = (
        Index("messages_by_time", "project_id", "thread_id", "create_time", "id"),
        Index("messages_by_run", "project_id", "run_id", "create_time", "id"),
        Index("messages_by_position", "thread_id", "position", unique=True),
    )

    id: str = Field(primary_key=True)
    project_id: str
    thread_id: str
    position: int
    role: str
    content_json: str = Field(sa_column=_json())
    state: str
    incomplete_reason: str | None = None
    assistant_id: str | None = None
    run_id: str | None = None
    metadata_json: str = Field(sa_column=_json())
    create_time: int = Field(sa_column=_micros())
    end_time: int | None = Field(default=None, sa_column=_micros(nullable=True))


class RunRow(SQLModel, table=True):
    """Executions. `status_json` holds what `RunStatus` has beyond its own columns.

    A run that waits for its thread has a `waiting_rank`, of which the lowest goes
    first, and the messages to append when it gets the thread. `retained_since` is
    when it ended, until its events are pruned.
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index("runs_by_thread", "project_id", "thread_id", "create_time", "id"),
        Index("runs_by_time", "project_id", "create_time", "id"),
        Index(
            "runs_one_active",
            "thread_id",
            unique=True,
            sqlite_where=text("holds_thread = 1"),
            postgresql_where=text("holds_thread"),
        ),
        Index(
            "runs_waiting",
            "thread_id",
            "waiting_rank",
            "create_time",
            "id",
            sqlite_where=text("waiting_rank IS NOT NULL"),
            postgresql_where=text("waiting_rank IS NOT NULL"),
        ),
        Index(
            "runs_retained",
            "retained_since",
            sqlite_where=text("retained_since IS NOT NULL"),
            postgresql_where=text("retained_since IS NOT NULL"),
        ),
    )

    id: str = Field(primary_key=True)
    project_id: str
    thread_id: str
    assistant_id: str
    state: str
    holds_thread: bool
    epoch: int
    attempt: int
    forgiven_attempt: int = 0
    last_sequence: int = Field(sa_column=Column(BigInteger, nullable=False))
    settings_json: str = Field(sa_column=_json())
    status_json: str = Field(sa_column=_json())
    ttl: int = Field(sa_column=_micros())
    metadata_json: str = Field(sa_column=_json())
    traceparent: str | None = None
    attempt_traceparent: str | None = None
    create_time: int = Field(sa_column=_micros())
    expire_time: int | None = Field(default=None, sa_column=_micros(nullable=True))
    waiting_rank: int | None = None
    waiting_messages_json: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    retained_since: int | None = Field(default=None, sa_column=_micros(nullable=True))


class RunStepRow(SQLModel, table=True):
    """Persisted units inside runs."""

    __tablename__ = "run_steps"
    __table_args__ = (
        Index("run_steps_by_index", "run_id", "index", unique=True),
        Index("run_steps_by_time", "project_id", "run_id", "create_time", "id"),
    )

    id: str = Field(primary_key=True)
    project_id: str
    thread_id: str
    run_id: str
    index: int
    state: str
    step_json: str = Field(sa_column=_json())
    create_time: int = Field(sa_column=_micros())


class RunEventRow(SQLModel, table=True):
    """Journals of runs."""

    __tablename__ = "run_events"
    __table_args__ = ({"sqlite_with_rowid": False},)

    run_id: str = Field(primary_key=True)
    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    project_id: str
    attempt: int
    event_time: int = Field(sa_column=_micros())
    body_json: str = Field(sa_column=_json())


class RequestRow(SQLModel, table=True):
    """Request ids that made something, kept for 24 hours."""

    __tablename__ = "requests"
    __table_args__ = (Index("requests_by_time", "create_time"),)

    project_id: str = Field(primary_key=True)
    method: str = Field(primary_key=True)
    request_id: str = Field(primary_key=True)
    fingerprint: str
    resource_id: str
    create_time: int = Field(sa_column=_micros())


def _table(row: type[SQLModel]) -> Table:
    table = row.__table__  # type: ignore[attr-defined]  # SQLModel does not type it
    assert isinstance(table, Table)
    return table


METADATA = SQLModel.metadata
ASSISTANTS = _table(AssistantRow)
THREADS = _table(ThreadRow)
MESSAGES = _table(MessageRow)
RUNS = _table(RunRow)
RUN_STEPS = _table(RunStepRow)
RUN_EVENTS = _table(RunEventRow)
REQUESTS = _table(RequestRow)
