"""Who uses a PostgreSQL database: one server alone, or servers that share their work over a broker."""

import os
import platform
import threading
import time

import psycopg

from assistants.storage.postgres_connection import RawConnection, connect

_KEY = (0x41535354, 1)
"""Two numbers that nobody else's advisory locks have; "ASST" in ASCII."""
_PATIENCE_S = 1.0
"""How long the database may take to notice that the server before this one was killed."""
_PAUSE_S = 0.05

_HOLDERS = """
SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = $1::oid AND l.objid = $2::oid
AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY a.backend_start LIMIT 1
"""


class HeldElsewhere(Exception):
    """Another server has the database; the message is one line for people."""


class PostgresHold:
    """An advisory lock on a connection of its own: the database lets go of it when this process ends.

    One server alone holds it exclusively, servers of a cluster hold it together.
    """

    def __init__(self, conninfo: str, *, shared: bool) -> None:
        """Takes the hold.

        Raises:
            HeldElsewhere: another server has it in a way that excludes this one.
            psycopg.OperationalError: the database cannot be reached.
        """
        self._conninfo = conninfo
        self._shared = shared
        self._mutex = threading.Lock()
        self._raw: RawConnection | None = None
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.ensure()
                return
            except HeldElsewhere:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)

    def ensure(self) -> None:
        """Takes the hold again if its connection was lost; raises what the constructor does. Thread-safe."""
        with self._mutex:
            if self._raw is not None:
                try:
                    self._raw.execute("SELECT 1")
                    return
                except psycopg.Error:
                    self._raw.close()
                    self._raw = None
            raw = connect(self._conninfo, application=_application())
            try:
                self._lock(raw)
            except BaseException:
                raw.close()
                raise
            self._raw = raw

    def close(self) -> None:
        """Lets go. May be called twice."""
        with self._mutex:
            if self._raw is not None:
                self._raw.close()
                self._raw = None

    def _lock(self, raw: RawConnection) -> None:
        function = "pg_try_advisory_lock_shared" if self._shared else "pg_try_advisory_lock"
        row = raw.execute(f"SELECT {function}($1::int, $2::int)", _KEY).fetchone()
        if row is not None and row[0]:
            return
        holder = raw.execute(_HOLDERS, _KEY).fetchone()
        who = "another server" if holder is None else f"another server, {holder[0]}"
        raise HeldElsewhere(
            f"database {raw.info.dbname!r} is in use by {who}: "
            + (
                "it runs without --nats-url, and such a server has its database for itself"
                if self._shared
                else "several servers on one database need --nats-url"
            )
        )


def _application() -> str:
    """How the others see this server."""
    return f"assistants on {platform.node()[:30]}, pid {os.getpid()}"
