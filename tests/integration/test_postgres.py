"""What is PostgreSQL's own: who may use a database, its form, lost races and lost connections."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from assistants.domain.errors import DatabaseError, Unavailable
from assistants.storage import postgres_connection, postgres_schema, retention, run_rows, run_turns, threads
from assistants.storage.connection import Compiled, Connection
from assistants.storage.postgres import PostgresDatabase
from assistants.storage.tables import METADATA
from assistants.storage.threads import insert_thread, lock_thread
from tests.cluster_parts import Postgres, postgres_server
from tests.conformance.stores import new_thread
from tests.serving import SCRIPTED, Finished, run_cli, serving

COUNT = sa.text("SELECT count(*) FROM threads")
END_SESSION = sa.text("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[PostgresDatabase]:
    database = await PostgresDatabase.open(migrated_url, shared=False)
    yield database
    await database.aclose()


def threads_in(url: str) -> int:
    return int(query(url, "SELECT count(*) FROM threads"))


def query(url: str, sql: str) -> Any:
    with psycopg.connect(url) as connection:
        row = connection.execute(sql.encode()).fetchone()
        return None if row is None else row[0]


# The form of the database.


def test_the_migrations_make_what_the_tables_say(migrated_url: str) -> None:
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(migrated_url))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


async def test_two_that_migrate_at_once_do_it_once(postgres_url: str) -> None:
    commands = await asyncio.gather(*(run_cli("migrate", "--database-url", postgres_url) for _ in range(2)))
    assert [(command.code, command.stderr) for command in commands] == [(0, "")] * 2
    assert len({command.stdout for command in commands}) == 1
    postgres_schema.check(postgres_url)


def test_a_migration_that_fails_changes_nothing(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE threads (id text)")
    with pytest.raises(DatabaseError, match="cannot be migrated"):
        postgres_schema.migrate(postgres_url)
    assert query(postgres_url, "SELECT to_regclass('assistants')") is None
    assert query(postgres_url, "SELECT to_regclass('alembic_version')") is None


@pytest.mark.parametrize(
    "statement",
    [
        threads._THREAD_AND_RUN,
        run_rows._ACTIVE,
        run_rows._UNFINISHED,
        run_rows._OVERDUE,
        run_rows._OVERDUE_WAITING,
        run_rows._BY_ID,
        run_turns._NEXT,
        run_turns._WAITING,
        retention._ENDED,
    ],
    ids=[
        "thread and run",
        "active",
        "unfinished",
        "overdue",
        "overdue waiting",
        "by id",
        "next",
        "waiting",
        "retained",
    ],
)
def test_no_hot_statement_reads_all_runs(migrated_url: str, statement: sa.Select[Any]) -> None:
    given = [name for name, value in statement.compile().params.items() if value is None]
    compiled = Compiled(statement, postgres_connection._DIALECT, given)
    with postgres_connection.connect(migrated_url) as raw:
        raw.execute("SET enable_seqscan = off")  # as if there were many
        raw.execute("SET plan_cache_mode = force_generic_plan")
        numbers = {"now", "slack", "ended_before"}
        values = compiled.bind({name: 1 if name in numbers else "x" for name in given})
        explained = raw.execute(f"EXPLAIN {compiled.sql}".encode(), values)
        plan = [str(row[0]) for row in explained]
    assert [line for line in plan if "Seq Scan" in line] == []


# Who may use it.


async def test_a_server_alone_has_its_database_for_itself(
    database: PostgresDatabase, migrated_url: str
) -> None:
    for shared in (False, True):
        with pytest.raises(DatabaseError, match=r"in use by another server, .*pid \d+: .*--nats-url"):
            await PostgresDatabase.open(migrated_url, shared=shared)
    await database.aclose()
    await (await PostgresDatabase.open(migrated_url, shared=True)).aclose()


async def test_servers_of_a_cluster_share_a_database_and_let_none_be_alone_there(migrated_url: str) -> None:
    servers = [await PostgresDatabase.open(migrated_url, shared=True) for _ in range(3)]
    with pytest.raises(DatabaseError, match="in use by another server"):
        await PostgresDatabase.open(migrated_url, shared=False)
    for server in servers:
        await server.aclose()
    await (await PostgresDatabase.open(migrated_url, shared=False)).aclose()


async def test_a_server_that_was_killed_has_let_go(migrated_url: str, tmp_path: Path) -> None:
    options = (*SCRIPTED, "--database-url", migrated_url)
    async with serving(tmp_path, *options) as server:
        assert_one_line(await serve(migrated_url), f"pid {server.pid}", "--nats-url")
        await server.killed()
        async with serving(tmp_path, *options):
            pass
    assert not (tmp_path / "assistants.db").exists()


# What the command line says.


async def test_a_database_without_tables_is_refused_with_the_command_that_makes_them(
    postgres_url: str,
) -> None:
    assert_one_line(
        await serve(postgres_url), "no tables yet", f"assistants migrate --database-url {postgres_url}"
    )
    migrated = await run_cli("migrate", "--database-url", postgres_url)
    assert (migrated.code, migrated.stderr) == (0, "")
    again = await run_cli("migrate", "--database-url", postgres_url)
    assert again.stdout == migrated.stdout


async def test_a_database_of_an_older_version_is_refused(migrated_url: str) -> None:
    set_version(migrated_url, "0001")
    assert_one_line(await serve(migrated_url), "older version, 0001", "assistants migrate --database-url")


async def test_a_database_of_a_newer_version_is_refused(migrated_url: str) -> None:
    set_version(migrated_url, "9999")
    assert_one_line(await serve(migrated_url), "newer version, 9999", "assistants migrate")
    assert_one_line(await run_cli("migrate", "--database-url", migrated_url), "newer version", "9999")


async def test_a_database_that_cannot_be_reached_is_named_without_its_password() -> None:
    url = "postgresql://me:secret@127.0.0.1:1/mine"
    for finished in (await serve(url), await run_cli("migrate", "--database-url", url)):
        assert_one_line(finished, "database 'mine' at 127.0.0.1 cannot be reached", "refused")
        assert "secret" not in finished.stderr


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:secret@host/x", "postgresql://me:***@host/x"),
        ("postgresql://me:se%40c:ret@host:1/x?a=b", "postgresql://me:***@host:1/x?a=b"),
        ("postgresql://host/x?user=me&password=secret&a=b", "postgresql://host/x?user=me&password=***&a=b"),
        ("postgresql://me@host/x", "postgresql://me@host/x"),
    ],
)
def test_passwords_are_not_shown(given: str, shown: str) -> None:
    assert postgres_schema.without_password(given) == shown


async def test_a_url_of_another_database_is_refused() -> None:
    finished = await serve("mysql://me:secret@host/x")
    assert finished.code == 2
    assert "must be postgresql://" in finished.stderr
    assert "secret" not in finished.stderr


async def serve(url: str) -> Finished:
    return await run_cli("serve", *SCRIPTED, "--grpc-address", "127.0.0.1:0", "--database-url", url)


def set_version(url: str, version: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", (version,))


def assert_one_line(finished: Finished, *parts: str) -> None:
    assert (finished.code, finished.stdout) == (1, ""), finished
    (line,) = finished.stderr.splitlines()
    assert line.startswith("assistants: ")
    for part in parts:
        assert part in line


# Lost races and lost connections.


async def test_jobs_that_wait_for_each_other_are_done_nevertheless(
    database: PostgresDatabase, migrated_url: str
) -> None:
    first, second = new_thread(), new_thread()
    for thread in (first, second):
        await database.write(partial(put, thread))
    both_locked = threading.Barrier(2)

    def lock_both(ids: tuple[str, str], meet: Callable[[], object], connection: Connection) -> None:
        lock_thread(connection, ids[0], project_id="p")
        meet()
        lock_thread(connection, ids[1], project_id="p")

    def meet_once() -> Callable[[], object]:
        met = threading.Event()

        def meet() -> None:
            if not met.is_set():  # whoever is done again meets nobody
                met.set()
                both_locked.wait(30)

        return meet

    await asyncio.gather(
        database.write(partial(lock_both, (first.id, second.id), meet_once())),
        database.write(partial(lock_both, (second.id, first.id), meet_once())),
    )
    assert threads_in(migrated_url) == 2


async def test_a_job_that_loses_its_connection_is_done_again(
    database: PostgresDatabase, migrated_url: str
) -> None:
    times = 0

    def job(connection: Connection) -> int:
        nonlocal times
        times += 1
        insert_thread(connection, new_thread())
        if times == 1:
            connection.execute(END_SESSION)
        return times

    assert await database.write(job) == 2
    assert threads_in(migrated_url) == 1


async def test_a_job_that_loses_every_connection_is_refused(
    database: PostgresDatabase, migrated_url: str
) -> None:
    def job(connection: Connection) -> None:
        insert_thread(connection, new_thread())
        connection.execute(END_SESSION)

    with pytest.raises(Unavailable, match=r"^the database cannot be used now$"):
        await database.write(job)
    with pytest.raises(Unavailable):
        await database.read(lambda connection: connection.execute(END_SESSION).first())
    assert await database.read(lambda connection: connection.execute(COUNT).scalar()) == 0


async def test_a_connection_that_is_lost_while_committing_leaves_it_open_what_was_stored(
    database: PostgresDatabase, migrated_url: str
) -> None:
    with psycopg.connect(migrated_url) as connection:
        connection.execute(
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER die AFTER INSERT ON threads DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION die()"
        )
    with pytest.raises(Unavailable, match="it is not known whether the change was stored"):
        await database.write(partial(put, new_thread()))


async def test_a_frozen_transaction_does_not_keep_others_waiting(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        postgres_connection, "_SESSION", ("SET idle_in_transaction_session_timeout = '100ms'",)
    )
    frozen = await PostgresDatabase.open(migrated_url, shared=True)
    other = await PostgresDatabase.open(migrated_url, shared=True)
    thread = new_thread()
    await other.write(partial(put, thread))
    locked, thawed = threading.Event(), threading.Event()
    times = 0

    def freeze(connection: Connection) -> int:
        nonlocal times
        times += 1
        lock_thread(connection, thread.id, project_id="p")
        locked.set()
        thawed.wait(30)
        insert_thread(connection, new_thread())
        return times

    freezing = frozen.write(freeze)
    await asyncio.to_thread(locked.wait, 30)
    await other.write(partial(lock_thread, thread_id=thread.id, project_id="p"))
    thawed.set()
    assert await freezing == 2, "what it had begun was undone, and done again"
    assert threads_in(migrated_url) == 2
    await frozen.aclose()
    await other.aclose()


async def test_an_outage_is_told_and_survived() -> None:
    with postgres_server() as server:
        url = migrated_in(server)
        database = await PostgresDatabase.open(url, shared=False)
        await asyncio.gather(*(database.write(partial(put, new_thread())) for _ in range(20)))
        server.kill()
        outcomes = await asyncio.gather(
            *(database.write(partial(put, new_thread()), key="k") for _ in range(20)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        with pytest.raises(Unavailable, match="the database cannot be used now"):
            await database.read(lambda connection: connection.execute(COUNT).scalar())
        server.start()
        await database.write(partial(put, new_thread()))
        assert await database.read(lambda connection: connection.execute(COUNT).scalar()) == 21
        with pytest.raises(DatabaseError, match="in use by another server"):
            await PostgresDatabase.open(url, shared=False)
        await database.aclose()


async def test_whoever_comes_first_after_an_outage_has_the_database(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with postgres_server() as server:
        url = migrated_in(server)
        before = await PostgresDatabase.open(url, shared=False)
        await before.write(partial(put, new_thread()))
        server.kill()
        server.start()
        after = await PostgresDatabase.open(url, shared=False)
        with pytest.raises(Unavailable):
            await before.write(partial(put, new_thread()))
        assert "in use by another server" in caplog.text
        await after.write(partial(put, new_thread()))
        await before.aclose()
        await after.aclose()


def put(thread: Any, connection: Connection) -> None:
    insert_thread(connection, thread)


def migrated_in(server: Postgres) -> str:
    url = server.create_database()
    postgres_schema.migrate(url)
    return url
