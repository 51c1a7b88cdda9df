"""What a turn costs around the engine: throughput, added time to first token, relay, long threads.

    python -m tests.benchmarks.turns [--clients 1,8,32] [--turns 1000] [--json-only]

A real server process plays the scripted engine, which takes no time; this process is
its clients. One line of JSON a case:

turns        A turn makes a thread and a message, and streams a run to its end.
ttft         From sending CreateRunStream to the first delta, against the engine itself.
relay        Words a second of one long answer, against the engine itself.
long_thread  Server CPU of the last ten turns of a long thread, against the first ten.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from statistics import median

import click
import grpc

from assistants.v1 import (
    assistant_service_pb2,
    assistant_service_pb2_grpc,
    content_pb2,
    message_service_pb2,
    message_service_pb2_grpc,
    run_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    thread_service_pb2,
    thread_service_pb2_grpc,
)
from assistants.v1.run_event_pb2 import RunEvent
from runtime.events import TextDelta
from runtime.testing import ScriptedEngine
from runtime.types import ChatMessage, ChatRole, GenerateRequest
from tests.benchmarks.measure import ServerProcess, milliseconds, percentile, print_case, start_server

CASES = ("turns", "ttft", "relay", "long_thread")
QUESTION = " ".join(["word"] * 20)
WARM_UP_TURNS = 50
RELAY_REPEATS = 5
LONG_THREADS = 8
LONG_WINDOW = 10

Measure = Callable[[ServerProcess], Awaitable[str]]
"""Measures one case, prints its figures, and gives a remark for people."""


class LoadClient:
    """One client with a connection of its own, and as little between it and the wire as possible."""

    def __init__(self, address: str) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channel = grpc.aio.insecure_channel(address, options=options)
        self._assistants = assistant_service_pb2_grpc.AssistantServiceStub(self._channel)
        self._threads = thread_service_pb2_grpc.ThreadServiceStub(self._channel)
        self._messages = message_service_pb2_grpc.MessageServiceStub(self._channel)
        self._runs = run_service_pb2_grpc.RunServiceStub(self._channel)

    async def aclose(self) -> None:
        await self._channel.close()

    async def create_assistant(self, model: str) -> str:
        assistant = assistant_service_pb2.Assistant(model=model)
        request = assistant_service_pb2.CreateAssistantRequest(assistant=assistant)
        return (await self._assistants.CreateAssistant(request)).name

    # Request ids, as the client of the product sends them.

    async def create_thread(self) -> str:
        request = thread_service_pb2.CreateThreadRequest(request_id=str(uuid.uuid4()))
        return (await self._threads.CreateThread(request)).name

    async def create_message(self, thread: str, text: str) -> None:
        message = message_service_pb2.Message(
            role=content_pb2.ROLE_USER,
            content=[content_pb2.ContentPart(text=content_pb2.Text(value=text))],
        )
        await self._messages.CreateMessage(
            message_service_pb2.CreateMessageRequest(
                parent=thread, message=message, request_id=str(uuid.uuid4())
            )
        )

    def stream(self, thread: str, assistant: str) -> AsyncIterator[RunEvent]:
        request = run_service_pb2.CreateRunRequest(
            parent=thread, run=run_pb2.Run(assistant=assistant), request_id=str(uuid.uuid4())
        )
        return aiter(self._runs.CreateRunStream(request))

    async def turn(self, thread: str, assistant: str) -> float:
        """Asks and reads the answer to its end; gives the seconds that it took."""
        start = time.perf_counter()
        await self.create_message(thread, QUESTION)
        state = run_pb2.Run.STATE_UNSPECIFIED
        async for event in self.stream(thread, assistant):
            if event.HasField("run_changed"):
                state = event.run_changed.run.state
        assert state == run_pb2.Run.STATE_COMPLETED, run_pb2.Run.State.Name(state)
        return time.perf_counter() - start

    async def first_turn(self, assistant: str) -> float:
        """A turn on a new thread; gives the seconds that it took."""
        start = time.perf_counter()
        thread = await self.create_thread()
        await self.turn(thread, assistant)
        return time.perf_counter() - start


async def measure_turns(server: ServerProcess, *, clients: int, turns: int) -> str:
    """Clients that take turns without a pause; `turns` is the sum over all of them."""
    fleet = [LoadClient(server.address) for _ in range(clients)]
    assistant = await fleet[0].create_assistant(server.model)
    await _take_turns(fleet, assistant, max(WARM_UP_TURNS, clients))
    server_cpu_s, own_cpu_s, start = server.cpu_s(), time.process_time(), time.perf_counter()
    latencies = await _take_turns(fleet, assistant, turns)
    elapsed_s = time.perf_counter() - start
    server_cpu_s, own_cpu_s = server.cpu_s() - server_cpu_s, time.process_time() - own_cpu_s
    print_case(
        "turns",
        clients=clients,
        turns_per_s=round(turns / elapsed_s, 1),
        p50_ms=milliseconds(percentile(latencies, 50)),
        p99_ms=milliseconds(percentile(latencies, 99)),
        server_cpu_ms_per_turn=milliseconds(server_cpu_s / turns),
    )
    await asyncio.gather(*(client.aclose() for client in fleet))
    return f"busy: server {server_cpu_s / elapsed_s:.0%}, clients {own_cpu_s / elapsed_s:.0%} of one CPU"


async def _take_turns(fleet: Sequence[LoadClient], assistant: str, turns: int) -> list[float]:
    """Shares the turns out to whichever client is free; gives the seconds of each."""
    left = iter(range(turns))

    async def take(client: LoadClient) -> list[float]:
        return [await client.first_turn(assistant) for _ in left]

    return [seconds for taken in await asyncio.gather(*map(take, fleet)) for seconds in taken]


async def measure_ttft(server: ServerProcess, *, samples: int) -> str:
    """Time to first token, through the server and from the engine itself by turns."""
    client = LoadClient(server.address)
    assistant = await client.create_assistant(server.model)
    await _take_turns([client], assistant, WARM_UP_TURNS)
    engine = ScriptedEngine.echo()
    served, direct = [], []
    for _ in range(samples):
        thread = await client.create_thread()
        await client.create_message(thread, QUESTION)
        start = time.perf_counter()
        events = client.stream(thread, assistant)
        async for event in events:
            if event.HasField("message_delta"):
                served.append(time.perf_counter() - start)
                break
        async for _ in events:
            pass
        direct.append((await _read_engine(engine, QUESTION))[0])
    print_case(
        "ttft",
        samples=samples,
        p50_ms=milliseconds(percentile(served, 50)),
        p99_ms=milliseconds(percentile(served, 99)),
        engine_p50_ms=milliseconds(percentile(direct, 50)),
        engine_p99_ms=milliseconds(percentile(direct, 99)),
        added_ttft_p50_ms=milliseconds(percentile(served, 50) - percentile(direct, 50)),
    )
    await client.aclose()
    return f"slowest: {max(served) * 1e3:.1f} ms"


async def measure_relay(server: ServerProcess, *, words: int) -> str:
    """Words a second of one long answer, from asking to its last word.

    Not from its first delta: deltas that arrive while an append is in flight become one
    event, so an engine that takes no time is relayed in very few of them.
    """
    text = " ".join(["word"] * words)
    client = LoadClient(server.address)
    assistant = await client.create_assistant(server.model)
    await _take_turns([client], assistant, WARM_UP_TURNS)
    engine = ScriptedEngine.echo()
    served, direct, deltas = [], [], []
    for _ in range(RELAY_REPEATS):
        thread = await client.create_thread()
        await client.create_message(thread, text)
        pieces, last_s = [], 0.0
        start = time.perf_counter()
        async for event in client.stream(thread, assistant):
            if event.HasField("message_delta"):
                last_s = time.perf_counter() - start
                pieces += [delta.text for delta in event.message_delta.content]
        assert "".join(pieces) == text
        served.append(words / last_s)
        deltas.append(len(pieces))
        direct.append(words / (await _read_engine(engine, text))[1])
    print_case(
        "relay",
        words=words,
        tokens_per_s=round(median(served)),
        engine_tokens_per_s=round(median(direct)),
        ratio=round(median(served) / median(direct), 4),
    )
    await client.aclose()
    return f"delta events an answer: {deltas}"


async def _read_engine(engine: ScriptedEngine, text: str) -> tuple[float, float]:
    """Seconds to the first and to the last delta of the engine itself."""
    request = GenerateRequest(messages=(ChatMessage(role=ChatRole.USER, content=text),))
    first_s = last_s = 0.0
    start = time.perf_counter()
    async for event in engine.generate(request):
        if isinstance(event, TextDelta):
            last_s = time.perf_counter() - start
            first_s = first_s or last_s
    return first_s, last_s


async def measure_long_thread(server: ServerProcess, *, turns: int) -> str:
    """The same turn on a long thread and on a short one, over a few threads side by side."""
    client = LoadClient(server.address)
    assistant = await client.create_assistant(server.model)
    await _take_turns([client], assistant, WARM_UP_TURNS)
    window = min(LONG_WINDOW, turns // 2)

    async def new_threads() -> list[str]:
        return [await client.create_thread() for _ in range(LONG_THREADS)]

    async def take(threads: list[str], count: int) -> tuple[list[float], float]:
        """Seconds of each turn, and CPU seconds of the server a turn."""
        cpu_s = server.cpu_s()
        seconds = [await client.turn(thread, assistant) for _ in range(count) for thread in threads]
        return seconds, (server.cpu_s() - cpu_s) / max(1, len(seconds))

    # Short threads before and after the long ones: what the machine does meanwhile is in neither.
    long, short = await new_threads(), await new_threads()
    before, before_cpu_s = await take(long, window)
    await take(long, turns - 2 * window)
    last, last_cpu_s = await take(long, window)
    after, after_cpu_s = await take(short, window)
    first, first_cpu_s = before + after, (before_cpu_s + after_cpu_s) / 2
    print_case(
        "long_thread",
        turns=turns,
        first_cpu_ms=milliseconds(first_cpu_s),
        last_cpu_ms=milliseconds(last_cpu_s),
        added_cpu_ms=milliseconds(last_cpu_s - first_cpu_s),
        first_p50_ms=milliseconds(percentile(first, 50)),
        last_p50_ms=milliseconds(percentile(last, 50)),
    )
    await client.aclose()
    return f"CPU of short threads before {before_cpu_s * 1e3:.2f} ms, after {after_cpu_s * 1e3:.2f} ms"


@click.command()
@click.option(
    "--clients", default="1,8,32", show_default=True, help="Clients at the same time, one case each."
)
@click.option("--turns", default=1000, show_default=True, help="Turns a case, over all clients.")
@click.option("--samples", default=400, show_default=True, help="First tokens that are timed.")
@click.option("--words", default=20_000, show_default=True, help="Length of the relayed answer.")
@click.option("--long-turns", default=300, show_default=True, help="Turns of a long thread.")
@click.option("--cases", default=",".join(CASES), show_default=True, help="Which to measure.")
@click.option("--json-only", is_flag=True, help="Leave the remarks out.")
def main(
    clients: str, turns: int, samples: int, words: int, long_turns: int, cases: str, json_only: bool
) -> None:
    """Measure what a turn costs around the engine."""
    chosen = cases.split(",")
    if unknown := set(chosen).difference(CASES):
        raise click.BadParameter(f"unknown: {', '.join(sorted(unknown))}", param_hint="--cases")
    measures: dict[str, list[Measure]] = {
        "turns": [partial(measure_turns, clients=int(count), turns=turns) for count in clients.split(",")],
        "ttft": [partial(measure_ttft, samples=samples)],
        "relay": [partial(measure_relay, words=words)],
        "long_thread": [partial(measure_long_thread, turns=long_turns)],
    }
    for case in chosen:
        for measure in measures[case]:
            remark = asyncio.run(_measure(measure))
            if not json_only:
                print(f"    {remark}", flush=True)


async def _measure(measure: Measure) -> str:
    # A server for each: none inherits the rows and caches of another.
    async with start_server("--engine", "scripted") as server:
        return await measure(server)


if __name__ == "__main__":
    main()
