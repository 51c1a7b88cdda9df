"""A deterministic engine without a model: for tests, for demos, and for measuring everything around one."""

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Self

from runtime.errors import ContextExceeded, EngineFault, EngineUnavailable
from runtime.events import EngineEvent, TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart, TurnEnd
from runtime.types import (
    ChatMessage,
    ChatRole,
    Embeddings,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    NamedToolChoice,
    ToolChoiceMode,
    Usage,
)

ScriptedStep = EngineEvent | Exception | asyncio.Event
"""An event to give, an exception to raise, or a gate to wait at until it is set."""

_WORD = re.compile(r"\s*\S+\s*|\s+")
_TEMPLATE_TOKENS = 4
_DELTAS_BETWEEN_YIELDS = 64
_COUNTS_CACHED = 65_536
_ECHOED = (ChatRole.USER, ChatRole.TOOL)


class ScriptedEngine:
    """Plays turns that were written down before, or echoes; a token is a word.

    It takes no time: what is left of the duration of a run is the server's own.
    """

    def __init__(
        self,
        turns: Iterable[Sequence[ScriptedStep]] = (),
        *,
        model_name: str = "scripted",
        slots: int = 64,
        context_tokens: int = 1_000_000,
        logprobs: bool = False,
    ) -> None:
        self.requests: list[GenerateRequest] = []
        """What was asked so far, oldest first; an echo keeps none."""
        self._turns = deque(tuple(turn) for turn in turns)
        self._echoes = False
        self._closed = False
        self._model = ModelInfo(
            name=model_name,
            provider="scripted",
            context_tokens=context_tokens,
            slots=slots,
            logprobs=logprobs,
        )
        # A growing thread passes the same texts on each turn: a dictionary
        # look-up with a hash that the string already knows, not a split.
        self._words = lru_cache(maxsize=_COUNTS_CACHED)(_count_words)

    @classmethod
    def echo(cls, *, model_name: str = "scripted", slots: int = 64, context_tokens: int = 1_000_000) -> Self:
        """Makes an engine that streams the last message back, of a user or a tool, a word a delta.

        Where the tool choice demands a call, it calls, with that message as the
        arguments if it is a JSON object, and with none if not.
        """
        engine = cls(model_name=model_name, slots=slots, context_tokens=context_tokens)
        engine._echoes = True
        return engine

    @property
    def model(self) -> ModelInfo:
        """The model that it pretends to be."""
        return self._model

    @property
    def ready(self) -> bool:
        """True until `aclose`."""
        return not self._closed

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Plays the next turn, or echoes.

        A scripted turn is played as it was written, with or without a `TurnEnd`;
        only an echo looks at `max_output_tokens` and `stop`.

        Raises:
            ContextExceeded: the prompt has more words than the context has tokens.
            EngineFault: no turn is left to play.
            EngineUnavailable: it was closed.
        """
        self._require_open()
        input_tokens = sum(self._words_of(message) for message in request.messages)
        if input_tokens > self._model.context_tokens:
            raise ContextExceeded(prompt_tokens=input_tokens, context_tokens=self._model.context_tokens)
        if self._echoes:
            async for event in self._echo(request, input_tokens):
                yield event
            return
        self.requests.append(request)
        if not self._turns:
            raise EngineFault(f"Call {len(self.requests)} of the scripted engine has no turn to play.")
        for step in self._turns.popleft():
            match step:
                case asyncio.Event():
                    await step.wait()
                case Exception():
                    raise step
                case _:
                    yield step

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Counts the words of each message, and four tokens for a template.

        Raises:
            EngineUnavailable: it was closed.
        """
        self._require_open()
        return [self._words_of(message) + _TEMPLATE_TOKENS for message in messages]

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Raises `EngineFault`: it gives no embeddings."""
        raise EngineFault(f"The model {self._model.name} gives no embeddings.")

    async def wait_ready(self, timeout_s: float) -> None:
        """Returns at once. Raises `EngineUnavailable` after `aclose`."""
        self._require_open()

    async def aclose(self) -> None:
        """Refuses further calls. May be called twice."""
        self._closed = True

    def assert_consumed(self) -> None:
        """Raises `AssertionError` when turns are left that nobody asked for."""
        if self._turns:
            raise AssertionError(f"{len(self._turns)} scripted turns were never asked for.")

    def _require_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The scripted engine is closed.")

    def _words_of(self, message: ChatMessage) -> int:
        words = self._words(message.content)
        if message.reasoning:
            words += self._words(message.reasoning)
        for call in message.tool_calls:
            words += 1 + self._words(call.arguments_json)
        return words

    async def _echo(self, request: GenerateRequest, input_tokens: int) -> AsyncGenerator[EngineEvent]:
        text = _last_text(request.messages)
        called = _demanded_tool(request)
        if called is None:
            text = _until_stop(text, request.stop)
        else:
            text = text if _is_json_object(text) else "{}"
            yield ToolCallStart("call_0", called)
        room_tokens = self._model.context_tokens - input_tokens
        limit = min(room_tokens, request.max_output_tokens or room_tokens)
        words = _WORD.finditer(text)
        output_tokens = 0
        for word in islice(words, limit):
            yield TextDelta(word.group()) if called is None else ToolCallDelta(word.group())
            output_tokens += 1
            if output_tokens % _DELTAS_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)
        cut = next(words, None) is not None
        if called is not None and not cut:
            yield ToolCallEnd()
        whole = FinishReason.STOP if called is None else FinishReason.TOOL_CALLS
        yield TurnEnd(
            FinishReason.LENGTH if cut else whole,
            Usage(input_tokens=input_tokens, output_tokens=output_tokens),
        )


def _count_words(text: str) -> int:
    return len(text.split())


def _last_text(messages: Sequence[ChatMessage]) -> str:
    return next((message.content for message in reversed(messages) if message.role in _ECHOED), "")


def _demanded_tool(request: GenerateRequest) -> str | None:
    match request.tool_choice:
        case NamedToolChoice(name=name):
            return name
        case ToolChoiceMode.REQUIRED:
            return request.tools[0].name
        case _:
            return None


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _until_stop(text: str, stops: Sequence[str]) -> str:
    ends = [end for stop in stops if stop and (end := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
