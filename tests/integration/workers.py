"""Worker processes on ports of their own, as an operator starts them."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """One worker, listening."""

    process: asyncio.subprocess.Process
    target: str

    async def kill(self) -> None:
        """kill -9, and waits until the kernel has taken the process away."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def start_worker(model_path: Path, *, target: str = "127.0.0.1:0", slots: int = 1) -> WorkerProcess:
    """Starts one with the real model; `target` is where a worker before it was."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "runtime.worker",
        *("--model-path", str(model_path), "--name", "smollm2-135m", "--listen", target),
        *("--slots", str(slots), "--context-tokens", "1024"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
        assert line, f"the worker exited with status {await process.wait()}"
    except BaseException:
        await WorkerProcess(process, "").kill()
        raise
    return WorkerProcess(process, json.loads(line)["ready"]["target"])


@asynccontextmanager
async def two_workers(model_path: Path) -> AsyncIterator[tuple[WorkerProcess, WorkerProcess]]:
    """Two of them."""
    async with AsyncExitStack() as stack:
        first = await start_worker(model_path)
        stack.push_async_callback(first.kill)
        second = await start_worker(model_path)
        stack.push_async_callback(second.kill)
        yield first, second
