"""What the benchmarks share: a server process, the CPU that it takes, and how figures are told."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import sqrt
from statistics import quantiles

import psutil

READY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """A server that said `ready`."""

    pid: int
    address: str
    model: str

    def cpu_s(self) -> float:
        """CPU seconds that the server and all processes below it have taken so far.

        The kernel counts in steps of 10 ms: measure over many turns.
        """
        server = psutil.Process(self.pid)
        own = server.cpu_times()
        # A child that has ended is in its parent's times; one that lives is not yet.
        living = [child.cpu_times() for child in server.children(recursive=True)]
        return own.children_user + own.children_system + sum(t.user + t.system for t in (own, *living))


@asynccontextmanager
async def start_server(*options: str) -> AsyncIterator[ServerProcess]:
    """`assistants serve` with an empty data directory, in its own process; stopped on exit."""
    with tempfile.TemporaryDirectory(prefix="assistants-benchmark-") as data_dir:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "assistants", "serve", "--grpc-address", "127.0.0.1:0"),
            *("--data-dir", data_dir, *options),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                line = (await process.stdout.readline()).decode()
            if not line.startswith("ready "):
                raise SystemExit(await process.wait())  # it said why on stderr
            fields = dict(field.split("=", 1) for field in line.split()[1:])
            yield ServerProcess(pid=process.pid, address=fields["grpc"], model=fields["model"])
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of all values, 1 to 99, do not exceed."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share, also of few trials: Wilson, "Probable Inference", JASA 22, 1927."""
    if not trials:
        return 0.0, 1.0
    z = 1.96
    share = successes / trials
    middle = share + z * z / (2 * trials)
    reach = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def milliseconds(seconds: float) -> float:
    """Seconds as milliseconds, to the microsecond."""
    return round(seconds * 1e3, 3)


def print_case(benchmark: str, **figures: float | str) -> None:
    """Prints the figures of one case as one line of JSON."""
    print(json.dumps({"benchmark": benchmark, **figures}), flush=True)
