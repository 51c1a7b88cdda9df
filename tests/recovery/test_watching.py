"""A watch goes on after any event: nothing is missed, and nothing comes twice."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

from assistants.client import Client, Run, RunEvent, text_of
from assistants.config import ServerConfig
from assistants.server.app import Server
from runtime.events import TextDelta, TurnEnd
from runtime.testing import ScriptedEngine, ScriptedStep
from runtime.types import FinishReason, Usage
from tests.recovery.journals import ask, assert_done_once, ended
from tests.serving import SCRIPTED, serving

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


async def test_a_watch_goes_on_after_any_event_while_the_run_goes_on(tmp_path: Path) -> None:
    gates = [asyncio.Event() for _ in WORDS]
    turn: list[ScriptedStep] = []
    for gate, word in zip(gates, WORDS, strict=True):
        turn += [gate, TextDelta(f"{word} ")]
    turn.append(TurnEnd(FinishReason.STOP, Usage(input_tokens=1, output_tokens=len(WORDS))))
    config = ServerConfig(
        data_dir=tmp_path,
        models_dir=tmp_path,
        model="scripted",
        engine="scripted",
        grpc_address="127.0.0.1:0",
    )
    async with (
        asyncio.timeout(20),
        Server(config, engine=ScriptedEngine([turn])) as server,
        Client(server.address) as client,
    ):
        thread, assistant = await ask(client, "Count", model="scripted")
        run = await client.create_run(thread.name, assistant.name)
        rests = [asyncio.create_task(read(client, run, after=0))]
        seen: list[RunEvent] = []
        closed_gates = iter(gates)
        while not seen or seen[-1].run_changed.run.state != Run.STATE_COMPLETED:
            # One event a connection, and a watcher beside it that stays.
            async with aclosing(aiter(client.watch(run.name, after_sequence=len(seen)))) as events:
                seen.append(await anext(events))
            rests.append(asyncio.create_task(read(client, run, after=len(seen))))
            if text_of(seen[-1]) or seen[-1].run_changed.run.state == Run.STATE_IN_PROGRESS:
                # Only now can the next word come.
                next(closed_gates, asyncio.Event()).set()

        assert [text_of(event) for event in seen if text_of(event)] == [f"{word} " for word in WORDS]
        for after, rest in enumerate(await asyncio.gather(*rests)):
            assert rest == seen[after:]
        told = await ended(client, run.name)
        assert_done_once(told)
        assert told.events == seen


async def test_a_watch_goes_on_after_any_event_when_the_run_has_ended(tmp_path: Path) -> None:
    async with asyncio.timeout(20), serving(tmp_path, *SCRIPTED) as server, server.client() as client:
        # So many words that the journal has several pages.
        thread, assistant = await ask(client, "again and " * 20_000, model="scripted")
        stream = client.stream(thread.name, assistant.name)
        live = [event async for event in stream]

        assert_done_once(await ended(client, stream.run.name))
        for after in range(len(live) + 1):
            assert await read(client, stream.run, after=after) == live[after:]


async def read(client: Client, run: Run, *, after: int) -> Sequence[RunEvent]:
    return [event async for event in client.watch(run.name, after_sequence=after)]
