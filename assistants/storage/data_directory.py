"""The data directory: one server at a time, one database in the newest form."""

import fcntl
import os
import sqlite3
from pathlib import Path
from types import TracebackType

import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from assistants.domain.errors import DataDirectoryError
from assistants.storage import schema


class DataDirectory:
    """Holds a directory for as long as the process lives, or until `close`."""

    def __init__(self, path: Path) -> None:
        """Takes the directory, creating it if need be.

        Raises:
            DataDirectoryError: it is not writable, or another server has it.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise DataDirectoryError(f"data directory {path} is not writable: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(self._lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise DataDirectoryError(
                f"data directory {path} is in use by another server, pid {pid}"
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def migrate(self) -> Path:
        """Brings the database to the newest form and gives its path.

        Raises:
            DataDirectoryError: the file is no sound database, cannot be written, or
                was brought to a form that this version does not know.
        """
        database = self.path / "assistants.db"
        engine = sa.create_engine(f"sqlite:///{database}", poolclass=sa.NullPool)
        try:
            # Alembic would wrap it; and a file that is no database must not be touched.
            with sqlite3.connect(database) as connection:
                connection.execute("PRAGMA schema_version")
            connection.close()
            schema.migrate(engine)
        except sqlite3.Error as error:
            raise DataDirectoryError(f"database {database} cannot be used: {error}") from error
        except DBAPIError as error:
            raise DataDirectoryError(f"database {database} cannot be used: {error.orig}") from error
        except CommandError as error:
            raise DataDirectoryError(f"database {database} is of a newer version: {error}") from error
        return database

    def close(self) -> None:
        """Lets another server have the directory."""
        os.close(self._lock)

    def __enter__(self) -> "DataDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
