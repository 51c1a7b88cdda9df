"""The majority of several generations that an engine draws independently of each other."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from runtime.errors import EngineFault, OutputInvalid
from runtime.events import (
    EngineEvent,
    PromptProgress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
    TurnEnd,
)
from runtime.reasoning.consensus import Sample, decide
from runtime.types import ToolCall, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """One generation that came to its end."""

    events: tuple[EngineEvent, ...]
    """Without progress and end."""
    end: TurnEnd
    sample: Sample


async def majority(
    generations: Sequence[AsyncGenerator[EngineEvent]], *, at_a_time: int, documents: bool
) -> tuple[EngineEvent, ...]:
    """Reads generations to their ends and returns the events of the one that most agree with.

    Its end has the votes, and the usage of all. Generations that raise `OutputInvalid` have no vote.

    Args:
        generations: at least one, not started. All are closed on return.
        at_a_time: how many run at the same time.
        documents: whether texts are JSON documents, which are compared by value.

    Raises:
        OutputInvalid: all did; with the usage of all.
        EngineError: one did; the others are given up.
    """
    limit = asyncio.Semaphore(at_a_time)

    async def draw(generation: AsyncGenerator[EngineEvent]) -> _Drawn | OutputInvalid:
        async with aclosing(generation), limit:
            try:
                return _drawn([event async for event in generation], documents=documents)
            except OutputInvalid as error:
                return error

    tasks = [asyncio.create_task(draw(generation)) for generation in generations]
    try:
        results = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    drawn = [result for result in results if isinstance(result, _Drawn)]
    missed = [result for result in results if isinstance(result, OutputInvalid)]
    usage = sum((one.end.usage for one in drawn), Usage()) + sum((one.usage for one in missed), Usage())
    if not drawn:
        last = missed[-1]
        raise OutputInvalid(document=last.document, violations=last.violations, usage=usage)
    decision = decide([one.sample for one in drawn])
    winner = drawn[decision.winner]
    return (*winner.events, replace(winner.end, usage=usage, votes=decision.votes))


def _drawn(events: Sequence[EngineEvent], *, documents: bool) -> _Drawn:
    given: list[EngineEvent] = []
    calls: list[ToolCall] = []
    text = ""
    for event in events:
        match event, given[-1] if given else None:
            case TurnEnd() as end, _:
                sample = Sample(text=text, tool_calls=tuple(calls), document=documents)
                return _Drawn(events=tuple(given), end=end, sample=sample)
            case PromptProgress(), _:
                continue
            case ReasoningDelta(text=more), ReasoningDelta(text=earlier):
                given[-1] = ReasoningDelta(earlier + more)
                continue
            case TextDelta(text=more), TextDelta(text=earlier):
                given[-1] = TextDelta(earlier + more)
                text += more
                continue
            case TextDelta(text=more), _:
                text += more
            case ToolCallStart(id=call_id, name=name), _:
                calls.append(ToolCall(id=call_id, name=name, arguments_json=""))
            case ToolCallDelta(arguments_json=more), _:
                calls[-1] = replace(calls[-1], arguments_json=calls[-1].arguments_json + more)
            case _:
                pass
        given.append(event)
    raise EngineFault("A generation ended without an end.")
