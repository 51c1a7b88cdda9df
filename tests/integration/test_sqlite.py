"""What is SQLite's own: a data directory for one server, migrated when it starts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from assistants.domain.errors import DataDirectoryError
from assistants.storage import retention, run_rows, run_turns, threads
from assistants.storage.data_directory import DataDirectory
from assistants.storage.tables import METADATA


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with DataDirectory(tmp_path) as directory:
        yield directory.migrate()


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
def test_no_hot_statement_reads_all_runs(path: Path, statement: sa.Select[Any]) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    sql = statement.compile(engine, compile_kwargs={"render_postcompile": True})
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", ("x",) * str(sql).count("?"))
        plan = [row.detail for row in rows]
    engine.dispose()
    # The partial indexes hold active and waiting runs only, so reading all of one is reading few.
    scans = [detail for detail in plan if "SCAN runs" in detail]
    assert [scan for scan in scans if not scan.endswith(("runs_one_active", "runs_waiting"))] == []


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
