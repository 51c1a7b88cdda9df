"""The SQLite store: group commit, fences, and a database in the form that the tables say."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from assistants.domain.content import Role, TextPart
from assistants.domain.errors import DataDirectoryError, Fenced, NoActionRequired, RunActive
from assistants.domain.ids import new_id
from assistants.domain.message import Message, MessageState
from assistants.domain.ports import Claim
from assistants.domain.run import Run, RunSettings, RunStatus
from assistants.domain.run_claim import first_claim
from assistants.domain.run_event import MessageChanged, RunChanged, RunEvent, StepChanged, TextDelta
from assistants.domain.run_states import RunState
from assistants.domain.run_step import MessageCreation, RunStep, StepState, ToolCalls
from assistants.domain.thread import Thread
from assistants.domain.tool import StepToolCall, ToolOutput
from assistants.storage import run_rows, threads
from assistants.storage.connection import Connection
from assistants.storage.data_directory import DataDirectory
from assistants.storage.event_log import SqliteEventLog
from assistants.storage.messages import SqliteMessages
from assistants.storage.run_store import SqliteRunStore
from assistants.storage.sqlite import SqliteDatabase
from assistants.storage.tables import METADATA
from assistants.storage.threads import SqliteThreads

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with DataDirectory(tmp_path) as directory:
        yield directory.migrate()


@pytest.fixture
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(path)
    yield database
    await database.aclose()


class Store:
    """A run store with one thread, and what its event log told."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.log = SqliteEventLog(database)
        self.runs = SqliteRunStore(database, self.log)
        self.threads = SqliteThreads(database)
        self.messages = SqliteMessages(database)
        self.told: list[RunEvent] = []
        self.log.subscribe(lambda run_id, events: self.told.extend(events))
        self.thread = Thread(id=new_id("thread"), project_id="p", create_time=NOW, update_time=NOW)

    def run(self) -> Run:
        return Run(
            id=new_id("run"),
            project_id="p",
            thread_id=self.thread.id,
            assistant_id="asst_1",
            settings=RunSettings(model="m"),
            status=RunStatus(state=RunState.QUEUED, expire_time=NOW),
            create_time=NOW,
        )

    async def claimed(self) -> Claim:
        run = self.run()
        claim = first_claim(run)
        await self.runs.create(run, [], None, claim=claim)
        return claim


@pytest.fixture
async def store(database: SqliteDatabase) -> Store:
    store = Store(database)
    await store.threads.create(store.thread, None)
    return store


def ended(claim: Claim, state: RunState = RunState.COMPLETED) -> RunChanged:
    return RunChanged(replace(claim.run.status, state=state, end_time=NOW, expire_time=None))


def test_the_migrations_make_what_the_tables_say(path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def test_every_table_and_every_index_of_a_list_begins_with_the_project() -> None:
    for table in METADATA.sorted_tables:
        assert not table.c.project_id.nullable
        for index in table.indexes:
            if str(index.name).endswith(("_by_time", "_by_thread")) and table.name != "requests":
                assert index.columns[0].name == "project_id", index.name


def insert(number: int, connection: Connection) -> None:
    connection.raw.execute("INSERT INTO numbers VALUES (?)", (number,))


@pytest.mark.parametrize(
    "statement",
    [threads._THREAD_AND_RUN, run_rows._ACTIVE, run_rows._UNFINISHED, run_rows._OVERDUE, run_rows._BY_ID],
    ids=["thread and run", "active", "unfinished", "overdue", "by id"],
)
def test_no_hot_statement_reads_all_runs(path: Path, statement: sa.Select[Any]) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    sql = statement.compile(engine, compile_kwargs={"render_postcompile": True})
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", ("x",) * str(sql).count("?"))
        plan = [row.detail for row in rows]
    engine.dispose()
    # The partial index holds active runs only, so reading all of it is reading few.
    assert [detail for detail in plan if "SCAN runs" in detail and "runs_one_active" not in detail] == []


async def test_one_failing_job_of_a_group_fails_alone(database: SqliteDatabase) -> None:
    def insert_unless_two(number: int, connection: Connection) -> int:
        insert(number, connection)
        if number == 2:
            raise ValueError("two")
        return number

    await database.write(lambda c: c.raw.execute("CREATE TABLE numbers (n INTEGER)"))
    outcomes = await asyncio.gather(
        *(database.write(partial(insert_unless_two, n)) for n in range(5)), return_exceptions=True
    )
    assert [repr(outcome) for outcome in outcomes] == ["0", "1", "ValueError('two')", "3", "4"]
    rows = database.read(lambda c: c.raw.execute("SELECT n FROM numbers").fetchall())
    assert rows == [(0,), (1,), (3,), (4,)]


async def test_a_write_is_read_as_soon_as_it_is_done(database: SqliteDatabase) -> None:
    count = "SELECT count(*) FROM numbers"
    await database.write(lambda c: c.raw.execute("CREATE TABLE numbers (n INTEGER)"))
    for number in range(50):
        await database.write(partial(insert, number))
        assert database.read(lambda c: c.raw.execute(count).fetchone()) == (number + 1,)
        assert await database.scan(lambda c: c.raw.execute(count).fetchone()) == (number + 1,)


async def test_what_was_given_before_closing_is_committed(path: Path) -> None:
    database = SqliteDatabase(path)
    await database.write(lambda c: c.raw.execute("CREATE TABLE numbers (n INTEGER)"))
    writes = [database.write(partial(insert, n)) for n in range(1_000)]
    await database.aclose()
    await asyncio.gather(*writes)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (1_000,)
    connection.close()


async def test_events_and_rows_say_the_same(store: Store) -> None:
    claim = await store.claimed()
    step = RunStep(
        id=new_id("step"),
        project_id="p",
        thread_id=store.thread.id,
        run_id=claim.run.id,
        index=0,
        state=StepState.IN_PROGRESS,
        details=MessageCreation(message_id="msg_1"),
        attempt=1,
        create_time=NOW,
    )
    message = Message(
        id="msg_1",
        project_id="p",
        thread_id=store.thread.id,
        role=Role.ASSISTANT,
        content=(),
        state=MessageState.IN_PROGRESS,
        run_id=claim.run.id,
        create_time=NOW,
    )
    whole = replace(message, content=(TextPart(value="hi"),), state=MessageState.COMPLETED, end_time=NOW)
    done = replace(step, state=StepState.COMPLETED, end_time=NOW)
    await store.runs.append(
        claim.fence, [StepChanged(step), MessageChanged(message), TextDelta("msg_1", 0, "hi")]
    )
    last = await store.runs.append(claim.fence, [MessageChanged(whole), StepChanged(done), ended(claim)])

    stored = await store.log.read(claim.run.id, after=0, limit=100)
    assert list(stored) == store.told
    assert [event.sequence for event in stored] == list(range(1, last + 1))
    run = await store.runs.get("p", claim.run.id)
    assert run is not None
    assert (run.status, run.last_sequence) == (ended(claim).status, last)
    assert await store.runs.get_step("p", claim.run.id, step.id) == done
    assert await store.messages.get("p", store.thread.id, "msg_1") == replace(whole, position=0)


async def test_a_newer_claim_fences_the_older_one(store: Store) -> None:
    old = await store.claimed()
    new = await store.runs.claim(old.run.id, takeover=True)
    assert new is not None
    assert (new.fence.epoch, new.run.status.attempt) == (2, 2)
    for events in ([TextDelta("m", 0, "zombie")], [ended(old)]):
        with pytest.raises(Fenced):
            await store.runs.append(old.fence, events)
    await store.runs.append(new.fence, [ended(new)])
    assert "zombie" not in repr(await store.log.read(old.run.id, after=0, limit=100))


async def test_a_run_in_progress_is_taken_by_takeover_only(store: Store) -> None:
    claim = await store.claimed()
    assert await store.runs.claim(claim.run.id, takeover=False) is None
    await store.runs.append(claim.fence, [ended(claim)])
    assert await store.runs.claim(claim.run.id, takeover=True) is None
    assert await store.runs.claim("run_x", takeover=True) is None


async def test_a_run_that_is_cancelling_takes_only_its_end(store: Store) -> None:
    claim = await store.claimed()
    cancelling = await store.runs.end_idle("p", claim.run.id, expired=False)
    assert cancelling is not None
    assert cancelling.status.state is RunState.CANCELLING
    for events in ([TextDelta("m", 0, "late")], [ended(claim)]):
        with pytest.raises(Fenced):
            await store.runs.append(claim.fence, events)
    await store.runs.append(claim.fence, [ended(claim, RunState.CANCELLED)])
    with pytest.raises(Fenced):
        await store.runs.append(claim.fence, [ended(claim)])


async def test_a_thread_has_one_active_run(store: Store) -> None:
    claim = await store.claimed()
    with pytest.raises(RunActive):
        await store.claimed()
    await store.runs.append(claim.fence, [ended(claim)])
    await store.claimed()


async def test_progress_postpones_expiry(store: Store) -> None:
    claim = await store.claimed()
    await store.runs.append(claim.fence, [TextDelta("m", 0, "a")])
    run = await store.runs.get("p", claim.run.id)
    assert run is not None
    assert run.status.expire_time is not None
    assert run.status.expire_time - datetime.now(UTC) > timedelta(seconds=590)
    assert await store.runs.overdue(datetime.now(UTC)) == []
    assert [r.id for r in await store.runs.overdue(datetime.now(UTC) + timedelta(seconds=601))] == [run.id]


async def test_nothing_of_another_project_is_seen(store: Store) -> None:
    claim = await store.claimed()
    assert await store.runs.get("q", claim.run.id) is None
    assert await store.runs.end_idle("q", claim.run.id, expired=False) is None
    assert await store.threads.get("q", store.thread.id) is None
    assert await store.runs.set_metadata("q", claim.run.id, {"a": "b"}) is None
    assert await store.runs.active("q", store.thread.id) is None


def test_a_data_directory_serves_one_server_and_names_it(tmp_path: Path) -> None:
    with (
        DataDirectory(tmp_path),
        pytest.raises(DataDirectoryError, match=r"in use by another server, pid \d+"),
    ):
        DataDirectory(tmp_path)
    with DataDirectory(tmp_path):
        pass


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "assistants.db").write_bytes(b"not a database, but somebody's notes" * 100)
    with DataDirectory(tmp_path) as directory, pytest.raises(DataDirectoryError, match="cannot be used"):
        directory.migrate()
    assert (tmp_path / "assistants.db").read_bytes().startswith(b"not a database")


async def test_attempts_without_a_completed_step_are_counted_unless_forgiven(store: Store) -> None:
    claim = await store.claimed()
    counts = []
    for letting_go in (False, False, True, False):
        if letting_go:
            store.runs.let_go(claim.fence)
        again = await store.runs.claim(claim.run.id, takeover=True)
        assert again is not None
        counts.append(again.fruitless_attempts)
        claim = again
    assert counts == [1, 2, 0, 1]


async def paused(store: Store) -> tuple[Claim, StepToolCall]:
    """A run that waits for one call."""
    claim = await store.claimed()
    call = StepToolCall(id="call_1", name="f", arguments_json="{}")
    step = RunStep(
        id=new_id("step"),
        project_id="p",
        thread_id=store.thread.id,
        run_id=claim.run.id,
        index=0,
        state=StepState.IN_PROGRESS,
        details=ToolCalls(calls=(call,)),
        attempt=1,
        create_time=NOW,
    )
    waiting = replace(claim.run.status, state=RunState.REQUIRES_ACTION, required_action=(call,))
    await store.runs.append(claim.fence, [StepChanged(step), RunChanged(waiting)])
    return claim, call


@pytest.mark.parametrize("take", [True, False], ids=["taken", "queued"])
async def test_outputs_complete_the_step_and_let_the_run_go_on_in_one_append(
    store: Store, take: bool
) -> None:
    paused_claim, call = await paused(store)
    run = paused_claim.run
    assert list(await store.runs.unfinished()) == []
    with pytest.raises(Fenced):
        await store.runs.append(paused_claim.fence, [TextDelta("m", 0, "late")])
    before = len(store.told)
    submitted = await store.runs.submit(
        run, [ToolOutput(tool_call_id=call.id, output="out")], None, take=take
    )
    told = [event.body for event in store.told[before:]]
    assert isinstance(told[0], StepChanged)
    assert told[0].step.state is StepState.COMPLETED
    states = [body.status.state for body in told if isinstance(body, RunChanged)]
    assert states == [RunState.QUEUED, RunState.IN_PROGRESS][: 1 + take]
    assert list(await store.runs.unfinished()) == [run.id]
    claim = submitted.claim or await store.runs.claim(run.id, takeover=False)
    assert claim is not None
    assert (claim.fence.epoch, claim.run.status.attempt, claim.fruitless_attempts) == (2, 2, 0)
    assert claim.steps == (told[0].step,)
    assert claim.run.status.required_action == ()
    assert await store.runs.get("p", run.id) == claim.run
    with pytest.raises(NoActionRequired):
        await store.runs.submit(run, [ToolOutput(tool_call_id=call.id, output="out")], None, take=True)


async def test_a_run_that_went_on_does_not_expire(store: Store) -> None:
    claim, call = await paused(store)
    await store.runs.submit(claim.run, [ToolOutput(tool_call_id=call.id, output="")], None, take=False)
    run = await store.runs.end_idle("p", claim.run.id, expired=True)
    assert run is not None
    assert run.status.state is RunState.QUEUED
