"""The command line as people meet it: what works says so, what does not says why on one line."""

import asyncio
import re
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from assistants.storage.data_directory import DataDirectory
from runtime.models.catalog import MODELS
from tests.serving import SCRIPTED, Finished, gone, run_cli, serving, started

ANY_PORT = ("--grpc-address", "127.0.0.1:0")


def assert_one_line(finished: Finished, *parts: str) -> None:
    """It failed, and said why on one line of stderr that has the parts."""
    assert finished.code == 1, finished
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert line.startswith("assistants: ")
    for part in parts:
        assert part in line


async def serve(data_dir: Path, *options: str) -> Finished:
    return await run_cli("serve", "--data-dir", str(data_dir), *ANY_PORT, *options)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def truncated(model_path: Path, tmp_path: Path) -> Path:
    path = tmp_path / "truncated.gguf"
    path.write_bytes(model_path.read_bytes()[:50_000_000])
    return path


@pytest.fixture
def mine(model_path: Path, tmp_path: Path) -> Path:
    """A sound model file of the user's own."""
    return Path(shutil.copy(model_path, tmp_path / "mine.gguf"))


# What goes wrong when a server starts.


async def test_a_port_that_is_taken(tmp_path: Path, taken_port: int) -> None:
    address = f"127.0.0.1:{taken_port}"
    assert_one_line(await serve(tmp_path, *SCRIPTED, "--grpc-address", address), address, "in use")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:99999"])
async def test_an_address_that_is_none(tmp_path: Path, address: str) -> None:
    assert_one_line(await serve(tmp_path, *SCRIPTED, "--grpc-address", address), address, "host:port")


async def test_a_data_directory_that_is_in_use(tmp_path: Path) -> None:
    async with serving(tmp_path, *SCRIPTED) as server:
        assert_one_line(await serve(tmp_path, *SCRIPTED), str(tmp_path), f"pid {server.pid}")


async def test_a_data_directory_that_is_not_writable() -> None:
    assert_one_line(await serve(Path("/dev/null/data"), *SCRIPTED), "/dev/null/data", "not writable")


async def test_a_database_that_is_none(tmp_path: Path) -> None:
    database = tmp_path / "assistants.db"
    database.write_bytes(b"garbage " * 1000)
    assert_one_line(await serve(tmp_path, *SCRIPTED), str(database), "not a database")
    assert database.read_bytes() == b"garbage " * 1000, "whatever it is, it may be dear to somebody"


async def test_a_database_that_is_damaged_inside(tmp_path: Path) -> None:
    with DataDirectory(tmp_path) as directory:
        database = directory.migrate()
    sound = database.read_bytes()
    database.write_bytes(sound[:4096] + b"\xff" * (len(sound) - 4096))
    assert_one_line(await serve(tmp_path, *SCRIPTED), str(database), "malformed")


async def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    with DataDirectory(tmp_path) as directory:
        connection = sqlite3.connect(directory.migrate())
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert_one_line(await serve(tmp_path, *SCRIPTED), "newer version", "9999")


async def test_a_model_that_was_not_pulled(tmp_path: Path) -> None:
    finished = await serve(tmp_path, "--models-dir", str(tmp_path), "--model", "qwen3-8b")
    assert_one_line(finished, "Run: assistants models pull qwen3-8b")


async def test_a_model_that_nobody_knows(tmp_path: Path) -> None:
    finished = await serve(tmp_path, "--models-dir", str(tmp_path), "--model", "qwen3-8bb")
    assert_one_line(finished, "'qwen3-8bb'", "Did you mean qwen3-8b?")


async def test_a_model_whose_file_is_cut_short_is_not_installed(tmp_path: Path, truncated: Path) -> None:
    models_dir = str(tmp_path / "models")
    pulled = await run_cli("models", "pull", f"file:{truncated}", "--models-dir", models_dir)
    assert pulled.code == 1
    assert pulled.stderr.splitlines()[-1].startswith(f"assistants: {truncated} is truncated")


async def test_a_model_whose_file_was_cut_short_later(tmp_path: Path, mine: Path) -> None:
    models_dir = str(tmp_path / "models")
    assert (await run_cli("models", "pull", f"file:{mine}", "--models-dir", models_dir)).code == 0
    with mine.open("r+b") as opened:
        opened.truncate(1_000_000)
    finished = await serve(tmp_path / "data", "--models-dir", models_dir, "--model", "mine")
    assert_one_line(finished, str(mine), "1000000 bytes")


async def test_a_model_whose_file_was_damaged_later(tmp_path: Path, mine: Path) -> None:
    models_dir = str(tmp_path / "models")
    assert (await run_cli("models", "pull", f"file:{mine}", "--models-dir", models_dir)).code == 0
    with mine.open("r+b") as opened:
        opened.write(b"garbage " * 1000)
    finished = await serve(tmp_path / "data", "--models-dir", models_dir, "--model", "mine")
    # Logging has begun by then: what counts is the last line.
    assert finished.code == 1
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    assert re.match(f"assistants: .*{mine}", finished.stderr.splitlines()[-1])


# What goes right.


async def test_the_ready_line_is_the_only_one_on_stdout(tmp_path: Path) -> None:
    async with serving(tmp_path, *SCRIPTED) as server:
        assert re.fullmatch(r"ready grpc=127\.0\.0\.1:\d+ model=scripted", server.ready)
        assert await server.terminate() == 0
        assert await server.rest_of_stdout() == ""


@pytest.mark.real_model
async def test_a_server_that_is_still_starting_stops_when_told_to(tmp_path: Path) -> None:
    async with asyncio.timeout(20), started("serve", "--data-dir", str(tmp_path), *ANY_PORT) as process:
        worker = await asyncio.to_thread(first_child, process.pid)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = await process.communicate()
        assert process.returncode == 0
        assert stdout == b""
        assert b"Traceback" not in stderr
        await gone(worker)


def first_child(pid: int) -> psutil.Process:
    """Waits for a process to have a child; the kernel tells nobody of grandchildren, so this polls."""
    while not (children := psutil.Process(pid).children()):
        time.sleep(0.01)
    return children[0]


async def test_models_are_listed_pulled_and_removed(tmp_path: Path, model_path: Path) -> None:
    options = ("--models-dir", str(tmp_path / "models"))
    file = tmp_path / "My Model.gguf"
    file.symlink_to(model_path)

    pulled = await run_cli("models", "pull", f"file:{file}", *options)
    assert (pulled.code, pulled.stdout) == (0, "my-model\n")
    listed = await run_cli("models", "list", *options)
    assert listed.code == 0
    rows = {line.split()[0]: line for line in listed.stdout.splitlines() if line}
    assert rows.keys() >= MODELS.keys()
    assert re.search(rf"yes +94 MiB +8192 .*file:{file}", rows["my-model"])
    assert "yes" not in rows["smollm2-135m"], "that one is installed elsewhere"

    removed = await run_cli("models", "remove", "my-model", *options)
    assert (removed.code, removed.stdout) == (0, "removed my-model\n")
    assert file.exists(), "a file that was registered where it lies stays there"
    assert "my-model" not in (await run_cli("models", "list", *options)).stdout
    assert_one_line(await run_cli("models", "remove", "my-model", *options), "my-model")


async def test_a_models_directory_that_is_not_writable() -> None:
    finished = await run_cli("models", "pull", "smollm2-135m", "--models-dir", "/dev/null/models")
    assert finished.code == 1
    assert "smollm2-135m could not be written" in finished.stderr
    assert "Traceback" not in finished.stderr


async def test_help_names_every_command() -> None:
    finished = await run_cli("--help")
    assert (finished.code, finished.stderr) == (0, "")
    for command in ("serve", "demo", "models"):
        assert re.search(rf"^  {command} ", finished.stdout, re.MULTILINE)


async def test_the_version_is_that_of_the_package() -> None:
    finished = await run_cli("--version")
    assert finished.code == 0
    assert re.search(r"version \d+\.\d+\.\d+", finished.stdout)
