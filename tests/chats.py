"""What tests of chat completions share: scripts, an engine that counts its slots, and calls."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from assistants.client import Client
from assistants.client_chat import ChatCompletion, ChatCompletionChunk, ChatMessage, user
from assistants.v1 import chat_completion_service_pb2_grpc, common_pb2, tool_pb2
from runtime.events import (
    EngineEvent,
    PromptProgress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    TurnEnd,
)
from runtime.testing import ScriptedEngine, ScriptedStep
from runtime.types import FinishReason, GenerateRequest, Usage

USAGE = Usage(input_tokens=9, output_tokens=5, cached_input_tokens=4, reasoning_output_tokens=2)
STOP = TurnEnd(FinishReason.STOP, USAGE)
PLAIN = (
    PromptProgress(9, 9),
    ReasoningDelta("hm"),
    ReasoningDelta("m"),
    TextDelta("Hello "),
    TextDelta("you"),
    STOP,
)
HELLO = [user("hello")]

LOOK = tool_pb2.Tool(
    function=tool_pb2.FunctionTool(
        name="look",
        description="Looks.",
        parameters_json='{"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}',
    )
)
CALLS = (
    ToolCallStart("x", "look"),
    ToolCallDelta('{"at": '),
    ToolCallDelta('"sky"}'),
    ToolCallEnd(),
    ToolCallStart("x", "look"),
    ToolCallDelta('{"at": "sea"}'),
    ToolCallEnd(),
    TurnEnd(FinishReason.TOOL_CALLS, USAGE),
)
SCHEMA = common_pb2.ResponseFormat(
    json_schema=common_pb2.JsonSchema(
        name="answer",
        schema_json='{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], '
        '"additionalProperties": false}',
        strict=True,
    )
)
JSON_OBJECT = common_pb2.ResponseFormat(json_object=common_pb2.ResponseFormat.JsonObject())


class WatchedEngine(ScriptedEngine):
    """Counts the generations that hold a slot."""

    def __init__(self, *turns: tuple[ScriptedStep, ...], **options: Any) -> None:
        super().__init__(turns, **options)
        self.generating = 0
        self.started = asyncio.Event()
        self.free = asyncio.Event()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        self.generating += 1
        self.free.clear()
        try:
            async with aclosing(super().generate(request)) as events:
                async for event in events:
                    self.started.set()
                    yield event
        finally:
            self.generating -= 1
            if self.generating == 0:
                self.free.set()


def stub(client: Client) -> "chat_completion_service_pb2_grpc.ChatCompletionServiceAsyncStub":
    return chat_completion_service_pb2_grpc.ChatCompletionServiceStub(client.channel)


async def ask(client: Client, messages: list[ChatMessage] = HELLO, **fields: Any) -> ChatCompletion:
    return await client.create_chat_completion(model="scripted", messages=messages, **fields)


async def chunks_of(
    client: Client, messages: list[ChatMessage] = HELLO, **fields: Any
) -> tuple[list[ChatCompletionChunk], ChatCompletion]:
    stream = client.stream_chat_completion(model="scripted", messages=messages, **fields)
    return [chunk async for chunk in stream], stream.completion


def same_answer(one: ChatCompletion, other: ChatCompletion) -> bool:
    """Whether two completions are equal but for what each has of its own."""
    copies = []
    for completion in (one, other):
        copy = ChatCompletion()
        copy.CopyFrom(completion)
        copy.ClearField("id")
        copy.ClearField("create_time")
        for choice in copy.choices:
            for call in choice.message.tool_calls:
                call.id = ""
        copies.append(copy)
    return copies[0] == copies[1]
