"""What every database promises to those who give it jobs."""

import asyncio
from functools import partial
from typing import NoReturn

import pytest
import sqlalchemy as sa

from assistants.domain.thread import Thread
from assistants.storage.connection import Connection
from assistants.storage.database import Database
from assistants.storage.tables import THREADS
from assistants.storage.threads import insert_thread
from tests.conformance.conftest import Open
from tests.conformance.stores import new_thread

_COUNT = sa.select(sa.func.count()).select_from(THREADS)
_POSITION = sa.select(THREADS.c.next_position).where(THREADS.c.id == sa.bindparam("id"))
_SET_POSITION = (
    sa.update(THREADS).where(THREADS.c.id == sa.bindparam("p_id")).values(next_position=sa.bindparam("next"))
)


def count(connection: Connection) -> int:
    counted: int = connection.execute(_COUNT).scalar()
    return counted


def insert(thread: Thread, connection: Connection) -> None:
    insert_thread(connection, thread)


async def test_a_write_is_read_as_soon_as_it_is_done(database: Database) -> None:
    for number in range(1, 21):
        await database.write(partial(insert, new_thread()))
        assert await database.read(count) == number
        assert await database.scan(count) == number


async def test_a_job_that_fails_undoes_itself_alone(database: Database) -> None:
    def insert_and_fail(number: int, connection: Connection) -> int:
        insert_thread(connection, new_thread())
        if number == 2:
            raise ValueError("two")
        return number

    outcomes = await asyncio.gather(
        *(database.write(partial(insert_and_fail, number)) for number in range(5)), return_exceptions=True
    )
    assert [repr(outcome) for outcome in outcomes] == ["0", "1", "ValueError('two')", "3", "4"]
    assert await database.read(count) == 4


async def test_writes_of_a_key_are_done_and_told_in_the_order_of_calls(database: Database) -> None:
    thread = new_thread()
    told: list[int] = []

    def move(number: int, connection: Connection) -> int:
        position: int = connection.execute(_POSITION, {"id": thread.id}).scalar()
        assert position == number
        connection.execute(_SET_POSITION, {"p_id": thread.id, "next": number + 1})
        return number

    writes = [database.write(partial(insert, thread), key="k")]
    moves = [
        database.write(partial(move, number), durable=number % 3 == 0, on_commit=told.append, key="k")
        for number in range(50)
    ]
    assert await asyncio.gather(*moves) == list(range(50))
    assert told == list(range(50))
    await asyncio.gather(*writes)


async def test_a_write_whose_predecessor_failed_is_done(database: Database) -> None:
    def fail(connection: Connection) -> NoReturn:
        raise ValueError("first")

    first = database.write(fail, key="k")
    second = database.write(partial(insert, new_thread()), key="k")
    with pytest.raises(ValueError, match="first"):
        await first
    await second
    assert await database.read(count) == 1


async def test_a_write_goes_on_and_is_told_although_nobody_waits_any_more(database: Database) -> None:
    told = asyncio.Event()

    async def write() -> None:
        await database.write(partial(insert, new_thread()), on_commit=lambda _: told.set())

    writing = asyncio.create_task(write())
    await asyncio.sleep(0)
    writing.cancel()
    await told.wait()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await database.read(count) == 1


async def test_what_was_given_before_closing_is_committed(open_database: Open) -> None:
    database = await open_database()
    writes = [
        database.write(partial(insert, new_thread()), key=str(number % 7), durable=False)
        for number in range(200)
    ]
    await database.aclose()
    await asyncio.gather(*writes)
    await database.aclose()
    assert await (await open_database()).read(count) == 200
