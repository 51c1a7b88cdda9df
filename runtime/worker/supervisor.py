"""Keeps a worker process alive: starts it, notices its death, starts it again."""

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import runtime
from runtime.errors import EngineUnavailable, WorkerStartFailed
from runtime.types import ModelInfo
from runtime.worker.spec import WorkerSpec

_LOG = logging.getLogger(__name__)

# A socket's path has 107 bytes; ours add "/worker-xxxxxxxx/worker.sock".
_LONGEST_PARENT = 70
_STDERR_LINES = 20
_CLOSE_TIMEOUT_S = 8.0
_MOST_CRASHES = 5
_CRASH_WINDOW_S = 60.0
_FIRST_BACKOFF_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker that is ready."""

    pid: int
    target: str
    """gRPC target at which it serves."""
    model: ModelInfo


class Supervisor:
    """Owns one worker process after the other, until it is closed or gives up."""

    def __init__(self, spec: WorkerSpec) -> None:
        """Prepares a supervisor; `start` starts its worker."""
        self._spec = spec
        self._directory: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._worker: Worker | None = None
        self._failure: str | None = None
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)

    @property
    def worker(self) -> Worker | None:
        """The worker that is ready; None while there is none."""
        return self._worker

    async def start(self) -> Worker:
        """Starts the first worker and waits until it is ready.

        Raises:
            WorkerStartFailed: it did not come up. There is no second try: what
                is wrong at the start is wrong with the model or the machine.
        """
        try:
            worker = await self._spawn()
        except BaseException:
            await self._clear()
            raise
        self._task = asyncio.create_task(self._keep_alive(), name="worker-supervisor")
        return worker

    async def wait(self, timeout_s: float) -> Worker:
        """Waits for a worker that is ready.

        Raises:
            EngineUnavailable: none came in time, or none will.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self._worker is None:
                    if self._failure is not None:
                        raise EngineUnavailable(self._failure)
                    await self._settled.wait()
        except TimeoutError:
            message = f"The worker did not come back within {timeout_s:g} seconds."
            raise EngineUnavailable(message) from None
        return self._worker

    def lost(self, worker: Worker) -> None:
        """Is told that a worker does not answer any more: it is replaced."""
        if worker is self._worker and self._process is not None:
            self._forget_worker()
            with suppress(ProcessLookupError):
                self._process.kill()

    async def aclose(self) -> None:
        """Ends the worker and removes what it leaves. May be called twice."""
        self._fail("The engine is closed.")
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._clear()

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        crashes: deque[float] = deque(maxlen=_MOST_CRASHES)
        while True:
            assert self._process is not None
            status = await self._process.wait()
            self._forget_worker()
            reason = f"The worker ended {_describe(status)}{self._last_words()}"
            while True:
                now = loop.time()
                crashes.append(now)
                if len(crashes) == _MOST_CRASHES and now - crashes[0] < _CRASH_WINDOW_S:
                    self._fail(f"{reason} It ended {_MOST_CRASHES} times in a minute and stays down.")
                    _LOG.error(self._failure)
                    return
                recent = sum(1 for crash in crashes if now - crash < _CRASH_WINDOW_S)
                delay_s = 0.0 if recent == 1 else _FIRST_BACKOFF_S * 2 ** (recent - 2)
                _LOG.warning("%s It is started again in %g seconds.", reason, delay_s)
                await asyncio.sleep(delay_s)
                try:
                    await self._spawn()
                    break
                except WorkerStartFailed as error:
                    reason = str(error)

    async def _spawn(self) -> Worker:
        """Starts a process and waits until it is ready."""
        await self._clear()
        self._stderr.clear()
        try:
            # One a worker: what its predecessor left, or a client of that, is elsewhere.
            self._directory = directory = _private_directory()
            target = f"unix:{directory}/worker.sock"
            process = await asyncio.create_subprocess_exec(
                # -P: without the working directory in its path, where anything may lie.
                *(sys.executable, "-P", "-m", "runtime.worker", *self._spec.arguments()),
                *("--listen", target, "--directory", str(directory)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                # Ctrl-C is for us: we drain first, and end the worker then.
                start_new_session=True,
                env=_environment(),
            )
        except OSError as error:
            raise WorkerStartFailed(f"The worker process cannot be started: {error}") from error
        self._process = process
        assert process.stdout is not None
        assert process.stderr is not None
        self._listening = asyncio.create_task(self._listen(process.stderr))
        line = await process.stdout.readline()
        if not line:
            status = await process.wait()
            await self._listening
            raise WorkerStartFailed(
                self._stderr[-1] if status == 1 and self._stderr else self._describe_start(status)
            )
        self._worker = _read_ready(line, process.pid)
        self._settled.set()
        return self._worker

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        """Keeps the last lines; a pipe that nobody reads would block the worker."""
        async for line in stderr:
            text = line.decode("utf-8", "replace").strip()
            if text:
                self._stderr.append(text)
                _LOG.info("worker: %s", text)

    def _describe_start(self, status: int) -> str:
        return f"The worker ended {_describe(status)} while it started{self._last_words()}"

    def _last_words(self) -> str:
        return f": {self._stderr[-1].rstrip('.')}." if self._stderr else "."

    def _forget_worker(self) -> None:
        self._worker = None
        if self._failure is None:
            self._settled.clear()

    def _fail(self, message: str) -> None:
        self._failure = self._failure or message
        self._worker = None
        self._settled.set()

    async def _clear(self) -> None:
        if self._process is not None:
            await _end(self._process)
            self._process = None
        if self._listening is not None:
            await self._listening
            self._listening = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends a process, politely first."""
    assert process.stdin is not None
    process.stdin.close()
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _private_directory() -> Path:
    """Makes a directory that is ours alone, and short enough for sockets in it."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _LONGEST_PARENT:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="worker-", dir=parent))


def _environment() -> dict[str, str]:
    """Adds where this package lies: the child finds the same one from anywhere."""
    home = str(Path(runtime.__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join(filter(None, (home, inherited)))
    # gRPC's own log lines on stderr would hide the one that says what is wrong.
    return {"GRPC_VERBOSITY": "NONE", **os.environ, "PYTHONPATH": path}


def _read_ready(line: bytes, pid: int) -> Worker:
    ready = json.loads(line)["ready"]
    return Worker(pid=pid, target=ready["target"], model=ModelInfo(**ready["model"]))


def _describe(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"
