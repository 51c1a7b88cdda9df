"""The client: asynchronous, typed, and patient with a server that restarts.

    async with Client("127.0.0.1:50051") as client:
        assistant = await client.create_assistant(model="smollm2-135m")
        thread = await client.create_thread()
        await client.create_message(thread.name, "Why is the sky blue?")
        async for event in client.stream(thread.name, assistant.name):
            print(text_of(event), end="", flush=True)

A run that calls functions waits for their outputs, and its stream goes on after them:

        stream = client.stream(thread.name, assistant.name, tools=[function_tool("now")])
        while calls := await stream.next_calls():
            outputs = {call.id: carry_out(call.name, call.arguments_json) for call in calls}
            await client.submit_tool_outputs(stream.run.name, outputs)

Calls raise the errors of `assistants.domain.errors`. What the server cannot take
now is tried again; creates carry a request id, so that nothing is made twice.
"""

import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from assistants.client_calls import (
    Method,
    Patience,
    Request,
    Response,
    answer,
    import_requests,
    trace_metadata,
)
from assistants.client_chat import ChatCompletion, ChatMessage, ChatStream
from assistants.client_errors import error_of
from assistants.client_runs import Message as Message
from assistants.client_runs import Run as Run
from assistants.client_runs import RunEvent as RunEvent
from assistants.client_runs import RunStep as RunStep
from assistants.client_runs import RunStream as RunStream
from assistants.client_runs import StreamRequest, create_run_request, create_thread_and_run_request
from assistants.client_runs import Tool as Tool
from assistants.client_runs import ToolCall as ToolCall
from assistants.client_runs import calls_of as calls_of
from assistants.client_runs import function_tool as function_tool
from assistants.client_runs import text_of as text_of
from assistants.client_runs import user_message as user_message
from assistants.v1 import (
    assistant_service_pb2,
    assistant_service_pb2_grpc,
    chat_completion_service_pb2,
    chat_completion_service_pb2_grpc,
    message_service_pb2,
    message_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
    thread_service_pb2,
    thread_service_pb2_grpc,
    thread_transfer_service_pb2,
    thread_transfer_service_pb2_grpc,
    tool_pb2,
)

Assistant = assistant_service_pb2.Assistant
Thread = thread_service_pb2.Thread
ToolChoice = tool_pb2.ToolChoice
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
_PAGE_SIZE = 100


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
        self._transfer = thread_transfer_service_pb2_grpc.ThreadTransferServiceStub(self._channel)
        self._runs = run_service_pb2_grpc.RunServiceStub(self._channel)
        self._chat = chat_completion_service_pb2_grpc.ChatCompletionServiceStub(self._channel)
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

    async def export_thread(self, name: str) -> AsyncIterator[str]:
        """The lines of JSON of a thread with all that is in it, without line ends."""
        request = thread_transfer_service_pb2.ExportThreadRequest(name=name)
        begun = b""
        try:
            async for piece in self._transfer.ExportThread(request, metadata=trace_metadata()):
                *lines, begun = (begun + piece.data).split(b"\n")
                for line in lines:
                    yield line.decode()
        except grpc.aio.AioRpcError as error:
            raise error_of(error) or error from error

    async def import_thread(self, lines: Iterable[str], *, new_ids: bool = False) -> Thread:
        """Stores a thread of such lines, or of OpenAI's objects, under its own ids or under new ones."""
        data, request_id = "\n".join(lines).encode(), str(uuid.uuid4())
        patience = self.new_patience()
        while True:
            requests = import_requests(data, new_ids=new_ids, request_id=request_id)
            try:
                return await self._transfer.ImportThread(requests, metadata=trace_metadata())
            except grpc.aio.AioRpcError as error:
                await patience.spend_on(error)

    async def create_message(
        self, thread: str, text: str, *, metadata: Mapping[str, str] | None = None
    ) -> Message:
        """Appends a message of the user."""
        request = message_service_pb2.CreateMessageRequest(
            parent=thread,
            message=user_message(text, metadata=metadata),
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
        """Creates a run and returns at once.

        `fields` are those of the message `Run`, and of `CreateRunRequest` the
        `additional_instructions` and `additional_messages`.
        """
        return await self._call(self._runs.CreateRun, create_run_request(thread, assistant, fields))

    def stream(self, thread: str, assistant: str, **fields: Any) -> RunStream:
        """Creates a run and streams its events to the end; `fields` are those of `create_run`."""
        request = create_run_request(thread, assistant, fields)
        return RunStream(self._open_stream, self.new_patience, request)

    async def create_thread_and_run(self, assistant: str, *texts: str, **fields: Any) -> Run:
        """Creates a thread with messages of the user and a run on it, all or nothing."""
        request = create_thread_and_run_request(assistant, texts, fields)
        return await self._call(self._runs.CreateThreadAndRun, request)

    def stream_thread_and_run(self, assistant: str, *texts: str, **fields: Any) -> RunStream:
        """The same, and streams the events of the run to the end."""
        request = create_thread_and_run_request(assistant, texts, fields)
        return RunStream(self._open_stream, self.new_patience, request)

    def watch(self, run: str, *, after_sequence: int = 0) -> RunStream:
        """Streams the events of a run after a sequence, old and new ones, to the end."""
        request = run_service_pb2.WatchRunRequest(name=run, after_sequence=after_sequence)
        return RunStream(self._open_stream, self.new_patience, request)

    async def get_run(self, name: str) -> Run:
        """Reads a run."""
        return await self._call(self._runs.GetRun, run_service_pb2.GetRunRequest(name=name))

    async def cancel_run(self, name: str) -> Run:
        """Stops a run."""
        return await self._call(self._runs.CancelRun, run_service_pb2.CancelRunRequest(name=name))

    async def submit_tool_outputs(self, run: str, outputs: Mapping[str, str]) -> Run:
        """Gives the outputs of all calls that a run waits for, by id of the call; the run goes on."""
        request = run_service_pb2.SubmitToolOutputsRequest(
            name=run,
            tool_outputs=[
                tool_pb2.ToolOutput(tool_call_id=call, output=output) for call, output in outputs.items()
            ],
            request_id=str(uuid.uuid4()),
        )
        return await self._call(self._runs.SubmitToolOutputs, request)

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

    # Chat completions.

    async def create_chat_completion(
        self, *, model: str, messages: Sequence[ChatMessage], timeout_s: float | None = None, **fields: Any
    ) -> ChatCompletion:
        """Answers a conversation; `fields` are those of the message `CreateChatCompletionRequest`.

        However long it takes, unless `timeout_s` is given.
        """
        request = chat_completion_service_pb2.CreateChatCompletionRequest(
            model=model, messages=messages, **fields
        )
        return await answer(
            self._chat.CreateChatCompletion, request, timeout_s=timeout_s, patience_s=self._patience_s
        )

    def stream_chat_completion(
        self, *, model: str, messages: Sequence[ChatMessage], **fields: Any
    ) -> ChatStream:
        """The same, in chunks as they are generated."""
        request = chat_completion_service_pb2.CreateChatCompletionRequest(
            model=model, messages=messages, **fields
        )
        return ChatStream(self._chat, request, self.new_patience)

    # Models.

    async def list_models(self) -> list[Model]:
        """The models that the server has."""
        request = model_service_pb2.ListModelsRequest(page_size=_PAGE_SIZE)
        return list((await self._call(self._models.ListModels, request)).models)

    # How calls are made.

    async def _call(self, method: Method[Request, Response], request: Request) -> Response:
        return await answer(method, request, timeout_s=self._timeout_s, patience_s=self._patience_s)

    def _open_stream(self, request: StreamRequest) -> AsyncIterator[RunEvent]:
        if isinstance(request, run_service_pb2.CreateRunRequest):
            return aiter(self._runs.CreateRunStream(request, metadata=trace_metadata()))
        if isinstance(request, run_service_pb2.CreateThreadAndRunRequest):
            return aiter(self._runs.CreateThreadAndRunStream(request, metadata=trace_metadata()))
        return aiter(self._runs.WatchRun(request, metadata=trace_metadata()))

    def new_patience(self) -> Patience:
        """How long a stream without news waits for the server."""
        return Patience(self._patience_s)
