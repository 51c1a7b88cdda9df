"""The worker process: `python -m runtime.worker --model-path FILE --name NAME --listen TARGET`."""

import argparse
import asyncio
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from runtime.errors import ModelCorrupt, PromptRejected, WorkerStartFailed
from runtime.worker.engine import LlamaEngine
from runtime.worker.server import serve
from runtime.worker.spec import WorkerSpec

_CLOSE_TIMEOUT_S = 5.0


def main() -> int:
    """Serves until SIGTERM, SIGINT, or the end of a piped stdin; returns the exit status."""
    arguments = vars(_parser().parse_args())
    target, directory = arguments.pop("listen"), arguments.pop("directory", None)
    spec = WorkerSpec(**arguments)
    if directory is None:
        directory = Path(tempfile.mkdtemp(prefix="worker-"))
    try:
        asyncio.run(_serve(spec, target, directory))
    except (WorkerStartFailed, ModelCorrupt, PromptRejected) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        # Here and not only in the parent, which may be gone.
        shutil.rmtree(directory, ignore_errors=True)
    return 0


async def _serve(spec: WorkerSpec, target: str, directory: Path) -> None:
    stop = asyncio.Event()
    _watch_for_the_end(stop)
    loading = asyncio.create_task(asyncio.to_thread(LlamaEngine.load, spec, directory))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        # Native code cannot be told to stop loading, and nobody waits for the model.
        _exit_now(directory)
    engine = loading.result()
    try:
        server, address = await serve(engine, target)
    except RuntimeError as error:
        await engine.aclose()
        raise WorkerStartFailed(
            f"The worker cannot listen at {target}: the address is in use, or is none of this machine."
        ) from error
    print(json.dumps({"ready": {"target": address, "model": asdict(engine.model)}}), flush=True)
    await stopped
    try:
        # The engine first: its streams end at the next token, so the server has none to wait for.
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await engine.aclose()
            await server.stop(grace=1)
    except TimeoutError:
        # A thread is deep in native code; the interpreter's own exit would abort with it.
        _exit_now(directory)


def _watch_for_the_end(stop: asyncio.Event) -> None:
    """Sets `stop` on a signal, and when the parent is gone.

    However a parent dies, the kernel closes its end of our stdin. A stdin that
    is no pipe, as under an init system, says nothing of the kind.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stdin = sys.stdin.fileno() if sys.stdin is not None else -1
    if stdin < 0:
        return
    mode = os.fstat(stdin).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        loop.add_reader(stdin, _read_stdin, stdin, stop)


def _read_stdin(stdin: int, stop: asyncio.Event) -> None:
    if not os.read(stdin, 4_096):
        asyncio.get_running_loop().remove_reader(stdin)
        stop.set()


def _exit_now(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.worker",
        description="Serves one model as runtime.v1.ReasoningEngine.",
        # What is not given is left to the defaults of WorkerSpec.
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--model-path", type=Path, required=True, help="GGUF file")
    parser.add_argument("--name", required=True, help="what clients call the model")
    parser.add_argument(
        "--listen",
        required=True,
        help="unix:/path or host:port; there is no authentication, so the network must be trusted",
    )
    parser.add_argument("--slots", type=_positive, help="generations at a time")
    parser.add_argument("--context-tokens", type=_positive, help="context of one slot")
    parser.add_argument("--threads", type=_positive, help="1 for a small model, else one a CPU")
    parser.add_argument("--cache-mib", type=int, help="memory for prefixes that hold no slot")
    parser.add_argument("--queue-length", type=int, help="requests that may wait for a slot")
    parser.add_argument("--embeddings", action="store_true", help="serve embeddings too")
    parser.add_argument("--native-reasoning", action="store_true", help="the model has tags to think in")
    parser.add_argument("--directory", type=Path, help="private, short, and removed at the end")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
