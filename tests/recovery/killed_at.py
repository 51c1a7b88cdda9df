"""`assistants`, which kills itself at one write of a run: python -m tests.recovery.killed_at POINT MOMENT …

A write point is an event of the run that this process creates, such as `run:completed`,
or `run:queued#2` for the second of its kind; the process is killed right before, or
right after, the commit that has it in it. Points that were committed are written to
the file `points` in the working directory, if it is there.
"""

import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from assistants.cli import main
from assistants.storage import sqlite_connection
from assistants.storage.tables import RUN_EVENTS, RUNS

BEFORE, AFTER = "before", "after"
_RECORD = Path("points")


class WritePoints:
    """Notes the write points of each transaction."""

    def __init__(self, point: str, moment: str) -> None:
        self._point = point
        self._moment = moment
        self._created: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._begun: list[str] = []

    def statement(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Something is executed."""
        if sql.startswith("BEGIN"):
            self._begun = []
        elif sql.startswith("INSERT INTO runs "):
            self._created |= {row["id"] for row in _rows(sql, rows)}
        elif sql.startswith("INSERT INTO run_events "):
            for row in _rows(sql, rows):
                if row["run_id"] in self._created:
                    self._begun.append(self._numbered(_kind(json.loads(row["body_json"]))))

    def commit(self, raw: sqlite3.Connection) -> None:
        """Commits, and kills the process if its time has come."""
        hit = self._point in self._begun
        if hit and self._moment == BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        raw.execute("COMMIT")
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        if _RECORD.exists():
            with _RECORD.open("a", encoding="utf-8") as file:
                file.writelines(f"{point}\n" for point in self._begun)

    def _numbered(self, kind: str) -> str:
        if kind.endswith("delta") and self._counts[kind]:
            return kind  # how many there are is a matter of timing
        self._counts[kind] += 1
        return kind if self._counts[kind] == 1 else f"{kind}#{self._counts[kind]}"


class NotedConnection:
    """A connection of sqlite3 whose statements are noted."""

    def __init__(self, raw: sqlite3.Connection, points: WritePoints) -> None:
        self._raw = raw
        self._points = points

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        if sql == "COMMIT":
            self._points.commit(self._raw)
            return None
        self._points.statement(sql, [parameters])
        return self._raw.execute(sql, parameters)

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> Any:
        self._points.statement(sql, rows)
        return self._raw.executemany(sql, rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _rows(sql: str, rows: Iterable[Sequence[Any]]) -> Iterator[Mapping[str, Any]]:
    """The rows of an insert, by column."""
    columns = [name.strip().strip('"') for name in sql[sql.index("(") + 1 : sql.index(")")].split(",")]
    assert {"run_id", "body_json"} <= set(columns) or set(columns) <= set(RUNS.c.keys()), sql
    for row in rows:
        yield dict(zip(columns, row, strict=True))


def _kind(body: Mapping[str, Any]) -> str:
    match body:
        case {"kind": "run", "status": {"state": str(state)}}:
            return f"run:{state}"
        case {"kind": "step" | "message" as kind}:
            return f"{kind}:{body[kind]['state']}"
        case {"kind": str(kind)}:
            return kind
        case _:
            raise AssertionError(body)


if __name__ == "__main__":
    assert "body_json" in RUN_EVENTS.c
    _points = WritePoints(sys.argv[1], sys.argv[2])
    _connect = sqlite_connection.SqliteConnection.__init__

    def _noted(self: Any, path: Path) -> None:
        _connect(self, path)
        self.raw = NotedConnection(self.raw, _points)

    sqlite_connection.SqliteConnection.__init__ = _noted  # type: ignore[method-assign]
    main(sys.argv[3:])
