"""Chat completions for the client: messages to ask with, and answers as they come.

messages = [system("Be brief."), user("Why is the sky blue?")]
stream = client.stream_chat_completion(model="smollm2-135m", messages=messages)
async for chunk in stream:
    print(chunk_text(chunk), end="", flush=True)
messages.append(stream.completion.choices[0].message)
"""

from collections.abc import AsyncGenerator, Callable

import grpc

from assistants.client_calls import Patience, trace_metadata
from assistants.client_errors import error_of
from assistants.v1 import chat_completion_service_pb2 as pb
from assistants.v1 import chat_completion_service_pb2_grpc as pb_grpc
from assistants.v1 import content_pb2

ChatMessage = pb.ChatMessage
ChatCompletion = pb.ChatCompletion
ChatCompletionChunk = pb.ChatCompletionChunk


def system(text: str) -> ChatMessage:
    """What the operator tells the model."""
    return _message(pb.ChatMessage.ROLE_SYSTEM, text)


def user(text: str) -> ChatMessage:
    """What the user says."""
    return _message(pb.ChatMessage.ROLE_USER, text)


def assistant(text: str) -> ChatMessage:
    """What the model said."""
    return _message(pb.ChatMessage.ROLE_ASSISTANT, text)


def tool_output(tool_call_id: str, output: str) -> ChatMessage:
    """The result of a tool call; may be empty."""
    message = (
        _message(pb.ChatMessage.ROLE_TOOL, output) if output else ChatMessage(role=ChatMessage.ROLE_TOOL)
    )
    message.tool_call_id = tool_call_id
    return message


def message_text(message: ChatMessage) -> str:
    """The text of a message, without reasoning."""
    return "".join(part.text.value for part in message.content)


def chunk_text(chunk: ChatCompletionChunk, index: int = 0) -> str:
    """The piece of one choice's text in a chunk; empty when it has none."""
    return "".join(
        piece.text for choice in chunk.choices if choice.index == index for piece in choice.content
    )


class ChatStream:
    """One answer as it is generated. Reading it twice asks twice.

    A server that is away is waited for until the first chunk. Later the answer is
    lost with its connection, which raises Unavailable.
    """

    def __init__(
        self,
        stub: "pb_grpc.ChatCompletionServiceAsyncStub",
        request: pb.CreateChatCompletionRequest,
        new_patience: Callable[[], Patience],
    ) -> None:
        self._stub = stub
        self._request = request
        self._new_patience = new_patience
        self.completion = ChatCompletion()
        """What the chunks add up to, as far as they have come."""

    async def __aiter__(self) -> AsyncGenerator[ChatCompletionChunk]:
        patience = self._new_patience()
        self.completion = ChatCompletion()
        while True:
            call = self._stub.StreamChatCompletion(self._request, metadata=trace_metadata())
            try:
                async for chunk in call:
                    _add(self.completion, chunk)
                    yield chunk
                return
            except grpc.aio.AioRpcError as error:
                if self.completion.id:
                    raise (error_of(error) or error) from error
                await patience.spend_on(error)
            finally:
                call.cancel()  # a reader who stops early wants no more of it

    async def result(self) -> ChatCompletion:
        """Reads to the end and gives the whole answer."""
        async for _ in self:
            pass
        return self.completion


def _message(role: pb.ChatMessage.Role.ValueType, text: str) -> ChatMessage:
    return ChatMessage(role=role, content=[content_pb2.ContentPart(text=content_pb2.Text(value=text))])


def _add(completion: ChatCompletion, chunk: ChatCompletionChunk) -> None:
    if not completion.id:
        completion.id, completion.model = chunk.id, chunk.model
        completion.create_time.CopyFrom(chunk.create_time)
    for delta in chunk.choices:
        while len(completion.choices) <= delta.index:
            completion.choices.add(
                index=len(completion.choices), message=ChatMessage(role=ChatMessage.ROLE_ASSISTANT)
            )
        choice = completion.choices[delta.index]
        for piece in delta.content:
            while len(choice.message.content) <= piece.index:
                choice.message.content.add()
            part = choice.message.content[piece.index]
            if piece.WhichOneof("delta") == "reasoning":
                part.reasoning.text += piece.reasoning
            else:
                part.text.value += piece.text
        for call in delta.tool_calls:
            while len(choice.message.tool_calls) <= call.index:
                choice.message.tool_calls.add(id=call.id, name=call.name)
            choice.message.tool_calls[call.index].arguments_json += call.arguments_json
        choice.logprobs.extend(delta.logprobs)
        choice.votes.extend(delta.votes)
        choice.finish_reason = delta.finish_reason
        choice.closed_early = delta.closed_early
    if chunk.HasField("usage"):
        completion.usage.CopyFrom(chunk.usage)
