"""The agent loop: turns until the model has answered.

One turn is one inference. The loop is an event generator: the run executor
journals what it yields, and a unary caller drains it.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from runtime.engines.base import Engine
from runtime.errors import EngineError, EngineFault, EngineUnavailable
from runtime.events import EngineEvent, PromptProgress, TurnEnd
from runtime.observe import Observer
from runtime.types import FinishReason, GenerateRequest

RESTART_TIMEOUT_S = 120.0
"""How long a turn waits for an engine that died before its first delta."""


@dataclass(frozen=True, slots=True)
class TurnStart:
    """A turn begins."""

    index: int
    """From 0."""


LoopEvent = TurnStart | EngineEvent


async def run_turns(
    engine: Engine, request: GenerateRequest, observer: Observer
) -> AsyncGenerator[LoopEvent]:
    """Runs turns until one answers; the last event is that turn's `TurnEnd`.

    Raises:
        EngineUnavailable: the engine died after its first delta, or does not come back.
        EngineError: as `Engine.generate` does.
    """
    yield TurnStart(0)
    async with aclosing(infer(engine, request, observer)) as events:
        async for event in events:
            if isinstance(event, TurnEnd) and event.finish_reason is FinishReason.TOOL_CALLS:
                raise EngineFault("the engine called tools that it was not given")
            yield event


async def infer(engine: Engine, request: GenerateRequest, observer: Observer) -> AsyncGenerator[EngineEvent]:
    """One inference. An engine that dies before the first delta is tried once more, silently."""
    try:
        async with aclosing(_observed(engine, request, observer)) as events:
            spoken = False
            async for event in events:
                spoken = spoken or not isinstance(event, PromptProgress)
                yield event
            return
    except EngineUnavailable:
        if spoken:
            raise
    await engine.wait_ready(RESTART_TIMEOUT_S)
    async with aclosing(_observed(engine, request, observer)) as events:
        async for event in events:
            yield event


async def _observed(
    engine: Engine, request: GenerateRequest, observer: Observer
) -> AsyncGenerator[EngineEvent]:
    observation = observer.inference(request, engine.model)
    end: TurnEnd | None = None
    failure: Exception | None = None
    spoken = False
    try:
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                if not spoken and not isinstance(event, PromptProgress):
                    spoken = True
                    observation.first_delta()
                if isinstance(event, TurnEnd):
                    end = event
                yield event
        if end is None:
            raise EngineFault("the engine ended its stream without an end")
    except EngineError as error:
        failure = error
        raise
    finally:
        if failure is not None:
            observation.failed(failure)
        elif end is not None:
            observation.ended(end)
        else:
            observation.abandoned()
