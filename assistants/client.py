"""The client: asynchronous, typed, and patient with a server that restarts.

    async with Client("127.0.0.1:50051") as client:
        assistant = await client.create_assistant(model="smollm2-135m")
        thread = await client.create_thread()
        await client.create_message(thread.name, "Why is the sky blue?")
        async for event in client.stream(thread.name, assistant.name):
            print(text_of(event), end="", flush=True)

Calls raise the errors of `assistants.domain.errors`. What the server cannot take
now is tried again; creates carry a request id, so that nothing is made twice.
"""

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc
from opentelemetry import propagate

from assistants.client_errors import error_of
from assistants.domain.errors import Unavailable
from assistants.v1 import (
    assistant_service_pb2,
    assistant_service_pb2_grpc,
    content_pb2,
    message_service_pb2,
    message_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    run_event_pb2,
    run_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    thread_service_pb2,
    thread_service_pb2_grpc,
)

Assistant = assistant_service_pb2.Assistant
Thread = thread_service_pb2.Thread
Message = message_service_pb2.Message
Run = run_pb2.Run
RunStep = run_pb2.RunStep
RunEvent = run_event_pb2.RunEvent
Model = model_service_pb2.Model

DEFAULT_TARGET = "127.0.0.1:50051"
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 30_000),
    # A page of long messages is larger than the 4 MiB that gRPC takes otherwise.
    ("grpc.max_receive_message_length", -1),
)
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0
_PAGE_SIZE = 100

T = TypeVar("T")
Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)


class _Method(Protocol[Request, Response]):
    def __call__(
        self, request: Request, *, timeout: float | None, metadata: tuple[tuple[str, str], ...]
    ) -> Awaitable[Response]: ...


class Client:
    """Calls one server.

    Args:
        target: host:port, or unix:PATH.
        timeout_s: how long one call may take, streams excepted.
        patience_s: how long a call or a stream waits for a server that is away.
    """

    def __init__(
        self, target: str = DEFAULT_TARGET, *, timeout_s: float = 30.0, patience_s: float = 60.0
    ) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._assistants = assistant_service_pb2_grpc.AssistantServiceStub(self._channel)
        self._threads = thread_service_pb2_grpc.ThreadServiceStub(self._channel)
        self._messages = message_service_pb2_grpc.MessageServiceStub(self._channel)
        self._runs = run_service_pb2_grpc.RunServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    @property
    def channel(self) -> grpc.aio.Channel:
        """The connection, for generated stubs beside this class."""
        return self._channel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connection; open streams end."""
        await self._channel.close()

    # Assistants.

    async def create_assistant(self, *, model: str, **fields: Any) -> Assistant:
        """Creates an assistant; `fields` are those of the message `Assistant`."""
        request = assistant_service_pb2.CreateAssistantRequest(
            assistant=Assistant(model=model, **fields), request_id=str(uuid.uuid4())
        )
        return await self._call(self._assistants.CreateAssistant, request)

    async def get_assistant(self, name: str) -> Assistant:
        """Reads an assistant."""
        request = assistant_service_pb2.GetAssistantRequest(name=name)
        return await self._call(self._assistants.GetAssistant, request)

    async def update_assistant(self, assistant: Assistant, *paths: str) -> Assistant:
        """Changes the fields named by `paths`, or all that are set."""
        request = assistant_service_pb2.UpdateAssistantRequest(assistant=assistant)
        request.update_mask.paths.extend(paths)
        return await self._call(self._assistants.UpdateAssistant, request)

    async def delete_assistant(self, name: str) -> None:
        """Deletes an assistant."""
        request = assistant_service_pb2.DeleteAssistantRequest(name=name)
        await self._call(self._assistants.DeleteAssistant, request)

    async def list_assistants(self) -> AsyncIterator[Assistant]:
        """All assistants, newest first."""
        request = assistant_service_pb2.ListAssistantsRequest(page_size=_PAGE_SIZE)
        while True:
            response = await self._call(self._assistants.ListAssistants, request)
            for assistant in response.assistants:
                yield assistant
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    # Threads and messages.

    async def create_thread(self, *, metadata: Mapping[str, str] | None = None) -> Thread:
        """Creates an empty thread."""
        request = thread_service_pb2.CreateThreadRequest(
            thread=Thread(metadata=metadata or {}), request_id=str(uuid.uuid4())
        )
        return await self._call(self._threads.CreateThread, request)

    async def get_thread(self, name: str) -> Thread:
        """Reads a thread."""
        return await self._call(self._threads.GetThread, thread_service_pb2.GetThreadRequest(name=name))

    async def delete_thread(self, name: str, *, force: bool = False) -> None:
        """Deletes a thread with all that is in it; with `force`, an active run is cancelled first."""
        request = thread_service_pb2.DeleteThreadRequest(name=name, force=force)
        await self._call(self._threads.DeleteThread, request)

    async def create_message(
        self, thread: str, text: str, *, metadata: Mapping[str, str] | None = None
    ) -> Message:
        """Appends a message of the user."""
        request = message_service_pb2.CreateMessageRequest(
            parent=thread,
            message=Message(
                role=content_pb2.ROLE_USER,
                content=[content_pb2.ContentPart(text=content_pb2.Text(value=text))],
                metadata=metadata or {},
            ),
            request_id=str(uuid.uuid4()),
        )
        return await self._call(self._messages.CreateMessage, request)

    async def list_messages(self, thread: str, *, run: str = "") -> AsyncIterator[Message]:
        """All messages of a thread, or those that a run wrote, oldest first."""
        request = message_service_pb2.ListMessagesRequest(
            parent=thread, run=run, order_by="create_time asc", page_size=_PAGE_SIZE
        )
        while True:
            response = await self._call(self._messages.ListMessages, request)
            for message in response.messages:
                yield message
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    # Runs.

    async def create_run(self, thread: str, assistant: str, **fields: Any) -> Run:
        """Creates a run and returns at once; `fields` are those of the message `Run`."""
        return await self._call(self._runs.CreateRun, _create_run_request(thread, assistant, fields))

    def stream(self, thread: str, assistant: str, **fields: Any) -> "RunStream":
        """Creates a run and streams its events to the end; `fields` are those of the message `Run`."""
        return RunStream(self, _create_run_request(thread, assistant, fields))

    def watch(self, run: str, *, after_sequence: int = 0) -> "RunStream":
        """Streams the events of a run after a sequence, old and new ones, to the end."""
        return RunStream(self, None, run=run, after_sequence=after_sequence)

    async def get_run(self, name: str) -> Run:
        """Reads a run."""
        return await self._call(self._runs.GetRun, run_service_pb2.GetRunRequest(name=name))

    async def cancel_run(self, name: str) -> Run:
        """Stops a run."""
        return await self._call(self._runs.CancelRun, run_service_pb2.CancelRunRequest(name=name))

    async def list_run_steps(self, run: str) -> AsyncIterator[RunStep]:
        """All steps of a run, in order."""
        request = run_service_pb2.ListRunStepsRequest(
            parent=run, order_by="create_time asc", page_size=_PAGE_SIZE
        )
        while True:
            response = await self._call(self._runs.ListRunSteps, request)
            for step in response.run_steps:
                yield step
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    # Models.

    async def list_models(self) -> list[Model]:
        """The models that the server has."""
        request = model_service_pb2.ListModelsRequest(page_size=_PAGE_SIZE)
        return list((await self._call(self._models.ListModels, request)).models)

    # How calls are made.

    async def _call(self, method: _Method[Request, Response], request: Request) -> Response:
        patience = _Patience(self._patience_s)
        while True:
            try:
                return await method(request, timeout=self._timeout_s, metadata=_metadata())
            except grpc.aio.AioRpcError as error:
                await patience.spend_on(error)

    def open_stream(
        self, request: run_service_pb2.CreateRunRequest | run_service_pb2.WatchRunRequest
    ) -> AsyncIterator[RunEvent]:
        """One rpc that streams events; what `RunStream` is made of."""
        if isinstance(request, run_service_pb2.CreateRunRequest):
            return aiter(self._runs.CreateRunStream(request, metadata=_metadata()))
        return aiter(self._runs.WatchRun(request, metadata=_metadata()))

    def new_patience(self) -> "_Patience":
        """How long a stream without news waits for the server."""
        return _Patience(self._patience_s)


class RunStream:
    """The events of one run, each once and in order, over as many connections as it takes.

    Beside the events it keeps what they add up to: `run` and `messages`. A message
    that a new attempt begins again is begun again here, too.
    """

    def __init__(
        self,
        client: Client,
        create: run_service_pb2.CreateRunRequest | None,
        *,
        run: str = "",
        after_sequence: int = 0,
    ) -> None:
        self._client = client
        self._create = create
        self._name = run
        self.last_sequence = after_sequence
        """Sequence of the last event that was given; what a later watch goes on after."""
        self.run = Run(name=run)
        """The run as the events tell it; only its name before the first."""
        self.messages: dict[str, Message] = {}
        """Messages that the run writes, by name, as far as they have come."""

    async def __aiter__(self) -> AsyncGenerator[RunEvent]:
        patience = self._client.new_patience()
        while True:
            try:
                async for event in self._client.open_stream(self._request()):
                    patience = self._client.new_patience()
                    self._take(event)
                    yield event
                return
            except grpc.aio.AioRpcError as error:
                await patience.spend_on(error)

    async def result(self) -> Run:
        """Reads to the end and gives the run as it ended, or as it is where the stream ends."""
        async for _ in self:
            pass
        return self.run

    @property
    def text(self) -> str:
        """The text of all messages so far."""
        return "".join(part.text.value for message in self.messages.values() for part in message.content)

    def _request(self) -> run_service_pb2.CreateRunRequest | run_service_pb2.WatchRunRequest:
        if not self.run.name:
            assert self._create is not None
            return self._create  # with its request id: made once, however often it is sent
        return run_service_pb2.WatchRunRequest(name=self.run.name, after_sequence=self.last_sequence)

    def _take(self, event: RunEvent) -> None:
        self.last_sequence = event.sequence
        match event.WhichOneof("event"):
            case "run_changed":
                self.run = event.run_changed.run
            case "message_changed":
                message = Message()
                message.CopyFrom(event.message_changed.message)
                self.messages[message.name] = message
            case "message_delta":
                _add(self.messages, event.message_delta)
            case _:
                pass


def text_of(event: RunEvent) -> str:
    """The piece of the answer in an event; empty when it has none."""
    return "".join(delta.text for delta in event.message_delta.content)


def _add(messages: dict[str, Message], delta: run_event_pb2.MessageDelta) -> None:
    message = messages.setdefault(delta.message, Message(name=delta.message))
    for piece in delta.content:
        while len(message.content) <= piece.index:
            message.content.add()
        part = message.content[piece.index]
        match piece.WhichOneof("delta"):
            case "text":
                part.text.value += piece.text
            case "reasoning":
                part.reasoning.text += piece.reasoning
            case "refusal":
                part.refusal.text += piece.refusal
            case "annotation":
                part.text.annotations.append(piece.annotation)
            case None:
                pass


def _create_run_request(
    thread: str, assistant: str, fields: dict[str, Any]
) -> run_service_pb2.CreateRunRequest:
    return run_service_pb2.CreateRunRequest(
        parent=thread, run=Run(assistant=assistant, **fields), request_id=str(uuid.uuid4())
    )


def _metadata() -> tuple[tuple[str, str], ...]:
    """The caller's trace context, as the configured propagators write it."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


class _Patience:
    """Waits longer and longer for a server that is away, and not for ever."""

    def __init__(self, patience_s: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + patience_s
        self._delay_s = _FIRST_DELAY_S

    async def spend_on(self, error: grpc.aio.AioRpcError) -> None:
        """Waits before another try. Raises the error in our words when there is none to be made."""
        told = error_of(error)
        if told is None:
            raise error
        if not isinstance(told, Unavailable):
            raise told from error
        delay_s = max(told.retry_after_s, self._delay_s * random.uniform(0.7, 1.3))
        if asyncio.get_running_loop().time() + delay_s > self._deadline:
            raise told from error
        await asyncio.sleep(delay_s)
        self._delay_s = min(self._delay_s * 2, _LONGEST_DELAY_S)
