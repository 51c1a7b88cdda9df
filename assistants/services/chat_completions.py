"""ChatCompletionService over gRPC."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from assistants.operations.chat import ChatOperations
from assistants.services.chat_convert import ChunkWriter, completion_to_proto, new_completion_from_proto
from assistants.services.requests import check_required
from assistants.v1 import chat_completion_service_pb2 as pb
from assistants.v1 import chat_completion_service_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs only


class ChatCompletionServicer(pb_grpc.ChatCompletionServiceServicer):
    """Maps requests to operations."""

    def __init__(self, operations: ChatOperations) -> None:
        self._operations = operations

    async def CreateChatCompletion(  # noqa: D102
        self, request: pb.CreateChatCompletionRequest, context: Context
    ) -> pb.ChatCompletion:
        check_required(request)
        return completion_to_proto(await self._operations.create(new_completion_from_proto(request)))

    async def StreamChatCompletion(  # noqa: D102
        self, request: pb.CreateChatCompletionRequest, context: Context
    ) -> AsyncIterator[pb.ChatCompletionChunk]:
        check_required(request)
        stream = await self._operations.stream(new_completion_from_proto(request))
        chunks = ChunkWriter(stream)
        async with aclosing(stream.events) as events:
            async for event in events:
                yield chunks.to_proto(event)
