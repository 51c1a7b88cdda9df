"""Pieces of a chat completion: made from the events of loops, and put together again."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from assistants.domain.chat import (
    ChatChoice,
    ChatCompletion,
    ChatEnd,
    ChatEvent,
    ChoiceEnd,
    ChoiceLogprobs,
    ChoiceText,
    ChoiceToolCall,
)
from assistants.domain.content import ContentPart, ReasoningPart, TextPart
from assistants.domain.ids import new_id
from runtime import events as engine_events
from runtime.loop import LoopEvent, TurnStart
from runtime.types import ToolCall, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatStream:
    """An answer while it is generated."""

    id: str
    model: str
    """Name of the model that answers."""
    create_time: datetime
    events: AsyncGenerator[ChatEvent]
    """Pieces of all choices, then one `ChatEnd`. Closing it ends the generations.

    Raises InvalidArgument, Unavailable, Overloaded, OutputInvalid.
    """


class ChoicePieces:
    """Makes pieces of one choice from the loop's events."""

    def __init__(self, index: int, *, include_reasoning: bool) -> None:
        self._index = index
        self._include_reasoning = include_reasoning
        self._part = -1
        self._in_reasoning = False
        self._call = -1
        self._end: engine_events.TurnEnd | None = None
        self.usage = Usage()
        """Of all turns so far."""

    def take(self, event: LoopEvent) -> ChoiceText | ChoiceToolCall | ChoiceLogprobs | None:
        """The piece in an event, if it has one that the client is to see."""
        match event:
            case engine_events.TextDelta(text=text):
                return self._text(text, reasoning=False)
            case engine_events.ReasoningDelta(text=text):
                if self._include_reasoning:
                    return self._text(text, reasoning=True)
            case engine_events.LogprobsDelta(tokens=tokens):
                return ChoiceLogprobs(index=self._index, tokens=tokens)
            case engine_events.ToolCallStart(name=name):
                self._call += 1
                return ChoiceToolCall(index=self._index, call=self._call, id=new_id("call"), name=name)
            case engine_events.ToolCallDelta(arguments_json=arguments_json):
                return ChoiceToolCall(index=self._index, call=self._call, arguments_json=arguments_json)
            case engine_events.TurnEnd():
                self.usage += event.usage
                self._end = event
            case TurnStart() | engine_events.PromptProgress() | engine_events.ToolCallEnd():
                pass
            case _:
                assert_never(event)
        return None

    def end(self) -> ChoiceEnd:
        """The last piece, once the loop has ended."""
        end = self._end
        assert end is not None, "the loop's last event is the end of a turn"
        return ChoiceEnd(
            index=self._index,
            finish_reason=end.finish_reason,
            votes=end.votes,
            closed_early=end.closed_early,
        )

    def _text(self, text: str, *, reasoning: bool) -> ChoiceText:
        if self._part < 0 or reasoning is not self._in_reasoning:
            self._part += 1
            self._in_reasoning = reasoning
        return ChoiceText(index=self._index, part=self._part, text=text, reasoning=reasoning)


async def drained(stream: ChatStream) -> ChatCompletion:
    """The whole answer. Raises as the events of the stream do."""
    gathered: dict[int, _Gathered] = {}
    choices: dict[int, ChatChoice] = {}
    usage = Usage()
    async with aclosing(stream.events) as events:
        async for event in events:
            match event:
                case ChoiceText() | ChoiceToolCall() | ChoiceLogprobs():
                    gathered.setdefault(event.index, _Gathered()).add(event)
                case ChoiceEnd():
                    choices[event.index] = gathered.setdefault(event.index, _Gathered()).choice(event)
                case ChatEnd(usage=usage):
                    pass
                case _:
                    assert_never(event)
    return ChatCompletion(
        id=stream.id,
        model=stream.model,
        create_time=stream.create_time,
        choices=tuple(choices[index] for index in sorted(choices)),
        usage=usage,
    )


class _Gathered:
    """The pieces of one choice, put together."""

    def __init__(self) -> None:
        self._parts: list[tuple[bool, list[str]]] = []
        self._calls: list[tuple[str, str, list[str]]] = []
        self._logprobs: list[ChoiceLogprobs] = []

    def add(self, piece: ChoiceText | ChoiceToolCall | ChoiceLogprobs) -> None:
        match piece:
            case ChoiceText():
                if piece.part == len(self._parts):
                    self._parts.append((piece.reasoning, []))
                self._parts[piece.part][1].append(piece.text)
            case ChoiceToolCall():
                if piece.call == len(self._calls):
                    self._calls.append((piece.id, piece.name, []))
                self._calls[piece.call][2].append(piece.arguments_json)
            case ChoiceLogprobs():
                self._logprobs.append(piece)
            case _:
                assert_never(piece)

    def choice(self, end: ChoiceEnd) -> ChatChoice:
        content: list[ContentPart] = []
        for reasoning, texts in self._parts:
            text = "".join(texts)
            content.append(ReasoningPart(text=text) if reasoning else TextPart(value=text))
        return ChatChoice(
            index=end.index,
            content=tuple(content),
            tool_calls=tuple(
                ToolCall(id=id_, name=name, arguments_json="".join(pieces))
                for id_, name, pieces in self._calls
            ),
            finish_reason=end.finish_reason,
            logprobs=tuple(token for piece in self._logprobs for token in piece.tokens),
            votes=end.votes,
            closed_early=end.closed_early,
        )
