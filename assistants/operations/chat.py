"""Chat completions: the loop, drained. Nothing is stored.

One task a choice puts its pieces into a queue, so that a slow reader holds no
slot; a reader that stops cancels the tasks, which frees their slots.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime

from assistants.domain.chat import ChatCompletion, ChatEnd, ChatEvent, NewChatCompletion
from assistants.domain.errors import (
    AssistantsError,
    InvalidArgument,
    OutputInvalid,
    Overloaded,
    Unavailable,
    Violation,
)
from assistants.domain.ids import new_id
from assistants.domain.tool import ClientFunction
from assistants.domain.validation import MAX_SEED, Violations
from assistants.operations.chat_messages import chat_messages
from assistants.operations.chat_pieces import ChatStream, ChoicePieces, drained
from assistants.operations.models import ModelOperations
from assistants.operations.response_formats import check_response_format
from assistants.operations.tools import check_tools, schema_rule
from assistants.telemetry.observer import RunTelemetry
from runtime import errors as runtime_errors
from runtime.engines.base import Engine
from runtime.loop import run_turns
from runtime.observe import Observer
from runtime.types import ChatMessage, GenerateRequest, JsonObjectFormat, TextFormat, Usage

MAX_CONSENSUS = 64
MAX_CHOICES = 16
MAX_STOPS = 4
MAX_STOP = 256
MAX_TOP_LOGPROBS = 20
RETRY_AFTER_S = 1.0


class ChatOperations:
    """Answers conversations, beside the runs and on the same slots."""

    def __init__(self, engine: Engine, models: ModelOperations, telemetry: RunTelemetry) -> None:
        self._engine = engine
        self._models = models
        self._telemetry = telemetry
        self._open: set[asyncio.Task[Usage]] = set()

    async def create(self, new: NewChatCompletion) -> ChatCompletion:
        """The whole answer: the stream, drained. Raises as `stream` and its events do."""
        return await drained(await self.stream(new))

    async def stream(self, new: NewChatCompletion) -> ChatStream:
        """Checks the request and begins to answer when the events are read.

        Raises InvalidArgument, FeatureUnavailable.
        """
        self._check(new)
        messages = chat_messages(new.messages)
        _check_json_is_mentioned(new, messages)
        await check_tools(new.tools, new.tool_choice)
        await check_response_format(new.response_format)
        request = GenerateRequest(
            messages=messages,
            tools=tuple(tool.function for tool in new.tools if isinstance(tool, ClientFunction)),
            tool_choice=new.tool_choice,
            parallel_tool_calls=new.parallel_tool_calls,
            response_format=new.response_format,
            effort=new.effort or self._models.effort_of(new.model),
            consensus=new.consensus,
            sampling=new.sampling,
            max_output_tokens=new.max_output_tokens,
            stop=new.stop,
            top_logprobs=(new.top_logprobs or 0) if new.logprobs else None,
        )
        return ChatStream(
            id=new_id("chatcmpl"),
            model=self._engine.model.name,
            create_time=datetime.now(UTC),
            # The current span is the request's here, and nobody knows whose where the events are read.
            events=self._answer(_choices(request, new.n), self._telemetry.request_observer(), new),
        )

    async def drain(self, grace_s: float) -> None:
        """Gives the answers in hand `grace_s` to end."""
        if self._open:
            await asyncio.wait(self._open, timeout=grace_s)

    async def _answer(
        self, requests: Sequence[GenerateRequest], observer: Observer, new: NewChatCompletion
    ) -> AsyncGenerator[ChatEvent]:
        pieces: asyncio.Queue[ChatEvent | asyncio.Task[Usage]] = asyncio.Queue()
        tasks = [
            asyncio.create_task(
                self._choose(
                    ChoicePieces(index, include_reasoning=new.include_reasoning), request, observer, pieces
                ),
                name=f"choice {index}",
            )
            for index, request in enumerate(requests)
        ]
        self._open.update(tasks)
        for task in tasks:
            task.add_done_callback(pieces.put_nowait)
        try:
            ended = 0
            while ended < len(tasks):
                piece = await pieces.get()
                if isinstance(piece, asyncio.Task):
                    piece.result()  # raises what the choice failed with
                    ended += 1
                else:
                    yield piece
            yield ChatEnd(_total([task.result() for task in tasks]))
        except runtime_errors.EngineError as error:
            told = _told(error)
            if told is None:
                raise
            raise told from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._open.difference_update(tasks)

    async def _choose(
        self,
        choice: ChoicePieces,
        request: GenerateRequest,
        observer: Observer,
        pieces: "asyncio.Queue[ChatEvent | asyncio.Task[Usage]]",
    ) -> Usage:
        """Generates one choice into the queue; gives what it cost."""
        async with aclosing(run_turns(self._engine, request, observer)) as events:
            async for event in events:
                if (piece := choice.take(event)) is not None:
                    pieces.put_nowait(piece)
        pieces.put_nowait(choice.end())
        return choice.usage

    def _check(self, new: NewChatCompletion) -> None:
        model = self._engine.model
        probabilities = {"logprobs": new.logprobs, "top_logprobs": new.top_logprobs is not None}
        self._models.check_settings(
            new.model, new.sampling, others=[field for field, given in probabilities.items() if given]
        )
        violations = Violations()
        violations.sampling(new.sampling)
        violations.between("consensus", new.consensus, 1, MAX_CONSENSUS)
        violations.between("n", new.n, 1, MAX_CHOICES)
        violations.count("stop", new.stop, most=MAX_STOPS)
        for index, stop in enumerate(new.stop[:MAX_STOPS]):
            violations.length(f"stop[{index}]", stop, least=1, most=MAX_STOP)
        violations.between("top_logprobs", new.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if new.max_output_tokens is not None and not 1 <= new.max_output_tokens <= model.context_tokens:
            violations.add(
                "max_output_tokens",
                f"must be between 1 and the model's context of {model.context_tokens} tokens, "
                f"got {new.max_output_tokens}",
            )
        if new.logprobs and not model.logprobs:
            violations.add("logprobs", f"is not supported with the model {new.model!r}")
        if new.top_logprobs is not None and not new.logprobs:
            violations.add("top_logprobs", f"must not be set without logprobs, got {new.top_logprobs}")
        if new.consensus > 1 and new.n > 1:
            violations.add(
                "n", f"must be 1 with consensus {new.consensus}, which gives one answer, got {new.n}"
            )
        if new.consensus > 1 and new.logprobs:
            violations.add("logprobs", f"must not be set with consensus {new.consensus}")
        if new.stop and not isinstance(new.response_format, TextFormat):
            violations.add(
                "stop",
                f"must be empty with the response format {new.response_format.type!r}: "
                "a document that is cut is not valid",
            )
        violations.check()


def _choices(request: GenerateRequest, n: int) -> list[GenerateRequest]:
    """One request a choice; with one seed for all, all would be the same."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * n
    return [
        replace(request, sampling=replace(request.sampling, seed=(seed + index) % (MAX_SEED + 1)))
        for index in range(n)
    ]


def _total(usages: Sequence[Usage]) -> Usage:
    """Of all choices, with the prompt of the first: they share it."""
    return replace(
        usages[0],
        output_tokens=sum(usage.output_tokens for usage in usages),
        reasoning_output_tokens=sum(usage.reasoning_output_tokens for usage in usages),
    )


def _check_json_is_mentioned(new: NewChatCompletion, messages: Sequence[ChatMessage]) -> None:
    """As OpenAI does: a model that does not know that JSON is asked for writes blanks without end."""
    if isinstance(new.response_format, JsonObjectFormat) and not any(
        "json" in message.content.lower() for message in messages
    ):
        raise InvalidArgument(
            Violation(
                "messages", "must contain the word 'json' in some form with the response format 'json_object'"
            )
        )


def _told(error: runtime_errors.EngineError) -> AssistantsError | None:
    """The error as clients are told of it; None for a fault, which is not theirs to know."""
    match error:
        case runtime_errors.SchemaRejected():
            return InvalidArgument(Violation(error.subject, schema_rule(error)))
        case runtime_errors.PromptRejected():
            return InvalidArgument(Violation("messages", str(error)))
        case runtime_errors.OutputInvalid():
            return OutputInvalid("; ".join(error.violations))
        case runtime_errors.EngineOverloaded():
            return Overloaded(str(error), retry_after_s=RETRY_AFTER_S)
        case runtime_errors.EngineUnavailable():
            return Unavailable(f"The engine is not available: {error}", retry_after_s=RETRY_AFTER_S)
        case _:
            return None
