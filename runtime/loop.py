"""The agent loop: turns until the model has answered, or calls what somebody else carries out.

One turn is one inference and the tool calls that it asked for. The loop is an
event generator: the run executor journals what it yields, and a unary caller
drains it.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from runtime.engines.base import Engine
from runtime.errors import ContextExceeded, EngineError, EngineFault, EngineUnavailable, OutputInvalid
from runtime.events import EngineEvent, PromptProgress, ReasoningDelta, TextDelta, ToolCallStart, TurnEnd
from runtime.observe import Observer
from runtime.types import (
    ChatMessage,
    ChatRole,
    FinishReason,
    GenerateRequest,
    NamedToolChoice,
    ToolChoice,
    ToolChoiceMode,
    Usage,
)

RESTART_TIMEOUT_S = 120.0
"""How long a turn waits for an engine that died before its first delta."""
MAX_ANSWERS = 3
"""Answers that a turn may give in all until one satisfies its schema."""


@dataclass(frozen=True, slots=True)
class TurnStart:
    """A turn begins."""

    index: int
    """From 0."""


LoopEvent = TurnStart | EngineEvent


async def run_turns(
    engine: Engine, request: GenerateRequest, observer: Observer, *, first_turn: int = 0
) -> AsyncGenerator[LoopEvent]:
    """Runs turns until one answers, or calls functions; the last event is that turn's `TurnEnd`.

    Functions are carried out by the client: after an end with `TOOL_CALLS`, the
    next call of this generator goes on, with the calls and their outputs in the
    messages and a higher `first_turn`. A choice that demands a call holds for turn
    0 only: once it is met, the model may answer.

    Raises:
        EngineUnavailable: the engine died after its first delta, or does not come back.
        OutputInvalid: no answer satisfied its schema; its usage is that of all of them.
        EngineError: as `Engine.generate` does.
    """
    yield TurnStart(first_turn)
    turn = replace(request, tool_choice=_choice_of_turn(request.tool_choice, first_turn))
    async with aclosing(_answer(engine, turn, observer)) as events:
        async for event in events:
            yield event


def _choice_of_turn(choice: ToolChoice, turn: int) -> ToolChoice:
    demands = choice is ToolChoiceMode.REQUIRED or isinstance(choice, NamedToolChoice)
    return ToolChoiceMode.AUTO if demands and turn > 0 else choice


async def _answer(
    engine: Engine, request: GenerateRequest, observer: Observer
) -> AsyncGenerator[EngineEvent]:
    """The inferences of one turn: an answer that misses its schema is asked for again, and told why.

    The end has the usage of all of them. Their thoughts are given as one, with a paragraph between.
    """
    spent = Usage()
    asked = request
    missed: OutputInvalid | None = None
    for answers in range(1, MAX_ANSWERS + 1):
        thought = spoken = False
        try:
            async with aclosing(infer(engine, asked, observer)) as events:
                async for event in events:
                    thought = thought or isinstance(event, ReasoningDelta)
                    # A thought is no answer: it may be followed by another.
                    spoken = spoken or isinstance(event, TextDelta | ToolCallStart)
                    if isinstance(event, TurnEnd) and missed is not None:
                        event = replace(event, usage=spent + event.usage)
                    yield event
            return
        except OutputInvalid as error:
            spent += error.usage
            missed = error.after(spent)
            left = (
                None if request.max_output_tokens is None else request.max_output_tokens - spent.output_tokens
            )
            if spoken or answers == MAX_ANSWERS or (left is not None and left < 1):
                raise missed from error
            if thought:
                yield ReasoningDelta("\n\n")
            asked = replace(asked, messages=asked.messages + _objection(error), max_output_tokens=left)
        except ContextExceeded as error:
            if missed is None:
                raise
            raise missed from error  # the prompt fitted until we added to it


def _objection(missed: OutputInvalid) -> tuple[ChatMessage, ChatMessage]:
    """What is appended to a prompt: an append-only prompt stays cached."""
    broken = "\n".join(f"- {violation}" for violation in missed.violations)
    return (
        ChatMessage(role=ChatRole.ASSISTANT, content=missed.document),
        # Not a developer message: templates move those to the beginning.
        ChatMessage(
            role=ChatRole.USER,
            content=f"This answer breaks rules of its schema:\n{broken}\nAnswer again, and keep to them.",
        ),
    )


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
    calls = _CallRules(request)
    end: TurnEnd | None = None
    failure: Exception | None = None
    spoken = False
    try:
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                if not spoken and not isinstance(event, PromptProgress):
                    spoken = True
                    observation.first_delta()
                calls.check(event)
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


class _CallRules:
    """What every engine promises about tool calls."""

    def __init__(self, request: GenerateRequest) -> None:
        self._names = frozenset(tool.name for tool in request.tools)
        self._called = False

    def check(self, event: EngineEvent) -> None:
        """Raises EngineFault when a promise is broken."""
        match event:
            case ToolCallStart(name=name):
                if name not in self._names:
                    raise EngineFault(f"the engine called a tool that it was not given: {name!r}")
                self._called = True
            case TextDelta() if self._called:
                raise EngineFault("the engine went on with text after it had called tools")
            case TurnEnd(finish_reason=FinishReason.STOP) if self._called:
                raise EngineFault("the engine called tools and ended as if it had answered")
            case TurnEnd(finish_reason=FinishReason.TOOL_CALLS) if not self._called:
                raise EngineFault("the engine ended with tool calls and made none")
            case _:
                pass
