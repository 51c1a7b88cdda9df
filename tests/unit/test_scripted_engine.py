"""The engine that other tests, and benchmarks, stand on."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from runtime.engines.base import Engine
from runtime.errors import ContextExceeded, EngineFault, EngineUnavailable
from runtime.events import EngineEvent, TextDelta, TurnEnd
from runtime.testing import ScriptedEngine
from runtime.types import ChatMessage, ChatRole, FinishReason, GenerateRequest, Usage

END = TurnEnd(FinishReason.STOP, Usage(input_tokens=1, output_tokens=1))


def ask(text: str, *, max_output_tokens: int | None = None, stop: tuple[str, ...] = ()) -> GenerateRequest:
    messages = (
        ChatMessage(role=ChatRole.SYSTEM, content="Be brief."),
        ChatMessage(role=ChatRole.USER, content=text),
    )
    return GenerateRequest(messages=messages, max_output_tokens=max_output_tokens, stop=stop)


async def collect(events: AsyncGenerator[EngineEvent]) -> list[EngineEvent]:
    return [event async for event in events]


def test_it_is_an_engine() -> None:
    engine: Engine = ScriptedEngine()
    assert engine.ready
    assert engine.model.provider == "scripted"


async def test_turns_are_played_in_order_and_requests_are_kept() -> None:
    engine = ScriptedEngine([[TextDelta("one"), END], [TextDelta("two"), END]])
    first, second = ask("1"), ask("2")
    assert await collect(engine.generate(first)) == [TextDelta("one"), END]
    with pytest.raises(AssertionError, match="1 scripted turns"):
        engine.assert_consumed()
    assert await collect(engine.generate(second)) == [TextDelta("two"), END]
    engine.assert_consumed()
    assert engine.requests == [first, second]


async def test_a_call_without_a_turn_is_a_fault() -> None:
    with pytest.raises(EngineFault, match="Call 1"):
        await collect(ScriptedEngine().generate(ask("?")))


async def test_an_exception_is_raised_where_it_was_written() -> None:
    engine = ScriptedEngine([[TextDelta("half"), EngineUnavailable("gone")]])
    events = engine.generate(ask("?"))
    assert await anext(events) == TextDelta("half")
    with pytest.raises(EngineUnavailable, match="gone"):
        await anext(events)


async def test_a_gate_holds_the_stream() -> None:
    gate = asyncio.Event()
    events = ScriptedEngine([[TextDelta("before"), gate, END]]).generate(ask("?"))
    assert await anext(events) == TextDelta("before")
    rest = asyncio.create_task(collect(events))
    await asyncio.sleep(0)
    assert not rest.done()
    gate.set()
    assert await rest == [END]


async def test_an_echo_streams_words_and_counts_them() -> None:
    events = await collect(ScriptedEngine.echo().generate(ask(" Hello,\n big  world ")))
    assert events == [
        TextDelta(" Hello,\n "),
        TextDelta("big  "),
        TextDelta("world "),
        TurnEnd(FinishReason.STOP, Usage(input_tokens=5, output_tokens=3)),
    ]


@pytest.mark.parametrize(
    ("limit", "text", "reason"),
    [(2, "a b ", FinishReason.LENGTH), (3, "a b c", FinishReason.STOP), (9, "a b c", FinishReason.STOP)],
)
async def test_an_echo_ends_at_the_limit(limit: int, text: str, reason: FinishReason) -> None:
    *deltas, end = await collect(ScriptedEngine.echo().generate(ask("a b c", max_output_tokens=limit)))
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == text
    assert isinstance(end, TurnEnd)
    assert end.finish_reason is reason


async def test_an_echo_ends_before_a_stop_text() -> None:
    *deltas, _ = await collect(ScriptedEngine.echo().generate(ask("a b STOP c", stop=("STOP",))))
    assert deltas == [TextDelta("a "), TextDelta("b ")]


async def test_a_prompt_longer_than_the_context_is_refused() -> None:
    engine = ScriptedEngine.echo(context_tokens=4)
    with pytest.raises(ContextExceeded) as refusal:
        await collect(engine.generate(ask("a b c")))
    assert (refusal.value.prompt_tokens, refusal.value.context_tokens) == (5, 4)


async def test_a_long_echo_lets_others_run() -> None:
    ticks = 0
    done = False

    async def tick() -> None:
        nonlocal ticks
        while not done:
            ticks += 1
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    await collect(ScriptedEngine.echo().generate(ask("word " * 6_400)))
    done = True
    await ticker
    assert ticks >= 100


async def test_tokens_are_words_and_a_template() -> None:
    engine = ScriptedEngine()
    assert await engine.count_tokens(ask("one two three").messages) == [6, 7]


async def test_a_closed_engine_refuses() -> None:
    engine = ScriptedEngine.echo()
    await engine.aclose()
    await engine.aclose()
    assert not engine.ready
    with pytest.raises(EngineUnavailable):
        await collect(engine.generate(ask("?")))
    with pytest.raises(EngineUnavailable):
        await engine.wait_ready(1)
