"""The server as its users run it: a process of its own, on a free port.

    async with serving(tmp_path, "--engine", "scripted") as server, server.client() as client:
        ...
        server.kill()  # SIGKILL; or: assert await server.terminate() == 0
    async with serving(tmp_path, "--engine", "scripted", address=server.address):
        ...  # the next server, where clients look for the last one

Whatever happens, the process and its worker are gone when the context ends.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from assistants.client import Client

READY_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 30.0
"""More than the grace of a drain and the end of the worker together."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SCRIPTED = ("--engine", "scripted")

_PYTHON = (sys.executable, "-m", "assistants")


class ServerProcess:
    """`assistants serve`, started and ready."""

    def __init__(self, process: asyncio.subprocess.Process, ready: str, stderr: asyncio.Task[str]) -> None:
        """Takes over a process that has said `ready`; `serving` makes one."""
        self.ready = ready
        """The line on stdout, without its end."""
        self.address = dict(field.split("=", 1) for field in ready.split()[1:])["grpc"]
        self.pid = process.pid
        self._process = process
        self._stderr = stderr

    @property
    def running(self) -> bool:
        """Whether it has not exited yet."""
        return self._process.returncode is None

    def client(self, *, patience_s: float = 60.0) -> Client:
        """A client of it, and of whoever listens at its address after it."""
        return Client(self.address, patience_s=patience_s)

    def worker(self) -> psutil.Process:
        """The process that the model is in. Fails unless there is exactly one."""
        (worker,) = psutil.Process(self.pid).children()
        return worker

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    async def killed(self) -> None:
        """kill -9, and waits until the kernel has taken the process away."""
        if self.running:
            self.kill()
        await self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: it does nothing any more, and nobody is told."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it goes on as if nothing had been."""
        self._process.send_signal(signal.SIGCONT)

    def tell_to_stop(self) -> None:
        """SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    async def terminate(self) -> int:
        """SIGTERM; gives the exit code."""
        self.tell_to_stop()
        return await self.exited()

    async def exited(self) -> int:
        """Waits for the exit code."""
        async with asyncio.timeout(EXIT_TIMEOUT_S):
            return await self._process.wait()

    async def stderr(self) -> str:
        """All that it said on stderr. Waits for its end."""
        async with asyncio.timeout(EXIT_TIMEOUT_S):
            return await asyncio.shield(self._stderr)

    async def rest_of_stdout(self) -> str:
        """All that it said on stdout after the ready line. Waits for its end."""
        assert self._process.stdout is not None
        async with asyncio.timeout(EXIT_TIMEOUT_S):
            return (await self._process.stdout.read()).decode()

    @asynccontextmanager
    async def health(self, service: str) -> AsyncIterator[AsyncGenerator[int]]:
        """The states of a service, the current one first, then each change as it happens."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            states = _states(stub.Watch(health_pb2.HealthCheckRequest(service=service)))
            try:
                yield states
            finally:
                await states.aclose()


async def _states(
    watch: grpc.aio.UnaryStreamCall[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
) -> AsyncGenerator[int]:
    try:
        async for response in watch:
            yield response.status
    finally:
        watch.cancel()


@asynccontextmanager
async def serving(
    data_dir: Path, *options: str, address: str = "127.0.0.1:0", entry: Sequence[str] = _PYTHON
) -> AsyncIterator[ServerProcess]:
    """Runs `assistants serve` with the options, by another `entry` if given; gives it when it is ready.

    Fails with what it said on stderr when it exits in place of getting ready.
    """
    arguments = ("serve", "--grpc-address", address, "--data-dir", str(data_dir), *options)
    async with started(*arguments, entry=entry) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        stderr = asyncio.create_task(_read_all(process.stderr))
        async with asyncio.timeout(READY_TIMEOUT_S):
            ready = (await process.stdout.readline()).decode().rstrip("\n")
        assert ready.startswith("ready "), f"exit code {await process.wait()}: {await stderr}"
        yield ServerProcess(process, ready, stderr)
    await stderr


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has run to its end."""

    code: int
    stdout: str
    stderr: str


async def run_cli(*arguments: str) -> Finished:
    """Runs `assistants` with the arguments to its end."""
    async with started(*arguments) as process:
        async with asyncio.timeout(READY_TIMEOUT_S):
            stdout, stderr = await process.communicate()
        assert process.returncode is not None
        return Finished(process.returncode, stdout.decode(), stderr.decode())


@asynccontextmanager
async def started(
    *arguments: str, entry: Sequence[str] = _PYTHON
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Starts `assistants` with the arguments, and does not wait for anything."""
    process = await asyncio.create_subprocess_exec(
        *entry,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        await _end(process)


async def gone(*processes: psutil.Process) -> None:
    """Waits until processes that are no children of this one have ended. Fails when they do not."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout=EXIT_TIMEOUT_S)
    assert not alive, f"still running: {alive}"


async def _read_all(stream: asyncio.StreamReader) -> str:
    return (await stream.read()).decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kills a process that still runs, and waits for its worker, which ends by itself then."""
    workers: list[psutil.Process] = []
    if process.returncode is None:
        with suppress(psutil.NoSuchProcess):
            workers = psutil.Process(process.pid).children()
        with suppress(ProcessLookupError):
            process.kill()
    await process.wait()
    await gone(*workers)
