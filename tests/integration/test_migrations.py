"""Databases of earlier versions are brought to the newest form with what is in them."""

import sqlite3
import time
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from assistants.storage import schema
from assistants.storage.data_directory import DataDirectory

_RUN = """INSERT INTO runs (id, project_id, thread_id, assistant_id, state, holds_thread, epoch, attempt,
    forgiven_attempt, last_sequence, settings_json, status_json, ttl, metadata_json, create_time)
    VALUES (?, 'default', ?, 'asst_1', ?, ?, 1, 1, 0, 3, '{}', '{}', 600, '{}', 1)"""


def test_events_of_runs_that_ended_before_are_kept_a_whole_time(tmp_path: Path) -> None:
    path = tmp_path / "assistants.db"
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    engine = sa.create_engine(f"sqlite:///{path}")
    config.attributes["engine"] = engine
    command.upgrade(config, "0001")
    engine.dispose()
    with sqlite3.connect(path) as connection:
        connection.executemany(
            _RUN, [("run_1", "thread_1", "completed", False), ("run_2", "thread_2", "requires_action", True)]
        )
    connection.close()
    before = time.time_ns() // 1_000
    with DataDirectory(tmp_path) as directory:
        directory.migrate()
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT id, retained_since, waiting_rank FROM runs ORDER BY id").fetchall()
    connection.close()
    assert [(row[0], row[2]) for row in rows] == [("run_1", None), ("run_2", None)]
    assert rows[0][1] >= before
    assert rows[1][1] is None
