"""Runs for the client: their events, what those add up to, and the functions that they call."""

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from assistants.client_calls import Patience
from assistants.v1 import content_pb2, message_service_pb2, run_event_pb2, run_pb2, run_service_pb2, tool_pb2

Message = message_service_pb2.Message
Run = run_pb2.Run
RunStep = run_pb2.RunStep
RunEvent = run_event_pb2.RunEvent
Tool = tool_pb2.Tool
ToolCall = tool_pb2.ToolCall

StreamRequest = (
    run_service_pb2.CreateRunRequest
    | run_service_pb2.CreateThreadAndRunRequest
    | run_service_pb2.WatchRunRequest
)


class RunStream:
    """The events of one run, each once and in order, over as many connections as it takes.

    Beside the events it keeps what they add up to: `run`, `steps` and `messages`. A
    message that a new attempt begins again is begun again here, too. The stream stays
    open while the run waits for tool outputs, whoever gives them.
    """

    def __init__(
        self,
        open_stream: Callable[[StreamRequest], AsyncIterator[RunEvent]],
        new_patience: Callable[[], Patience],
        request: StreamRequest,
    ) -> None:
        """Args give one rpc that streams events, how long to wait for the server, and what to ask it."""
        self._open_stream = open_stream
        self._new_patience = new_patience
        self._asked = request
        watched = request if isinstance(request, run_service_pb2.WatchRunRequest) else None
        self.last_sequence = watched.after_sequence if watched else 0
        """Sequence of the last event that was given; what a later watch goes on after."""
        self.run = Run(name=watched.name if watched else "")
        """The run as the events tell it; only its name before the first."""
        self.steps: dict[str, RunStep] = {}
        """Steps of the run, by name, as far as they have come."""
        self.messages: dict[str, Message] = {}
        """Messages that the run writes, by name, as far as they have come."""

    async def __aiter__(self) -> AsyncGenerator[RunEvent]:
        patience = self._new_patience()
        while True:
            try:
                async for event in self._open_stream(self._request()):
                    patience = self._new_patience()
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

    async def next_calls(self) -> Sequence[ToolCall]:
        """Reads on until the run waits for the outputs of calls, and gives those; none when it has ended."""
        async with aclosing(aiter(self)) as events:
            async for event in events:
                if calls := calls_of(event):
                    return calls
        return ()

    @property
    def text(self) -> str:
        """The text of all messages so far."""
        return "".join(part.text.value for message in self.messages.values() for part in message.content)

    def _request(self) -> StreamRequest:
        if not self.run.name:
            return self._asked  # with its request id: made once, however often it is sent
        return run_service_pb2.WatchRunRequest(name=self.run.name, after_sequence=self.last_sequence)

    def _take(self, event: RunEvent) -> None:
        self.last_sequence = event.sequence
        match event.WhichOneof("event"):
            case "run_changed":
                self.run = event.run_changed.run
            case "step_changed":
                step = RunStep()
                step.CopyFrom(event.step_changed.step)
                self.steps[step.name] = step
            case "step_delta":
                _add_calls(self.steps, event.step_delta)
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


def calls_of(event: RunEvent) -> Sequence[ToolCall]:
    """The calls whose outputs the run waits for after the event; none when it does not wait."""
    return event.run_changed.run.required_action.tool_calls


def function_tool(
    name: str, description: str = "", parameters: Mapping[str, Any] | None = None, *, strict: bool = False
) -> Tool:
    """A function that the client carries out; `parameters` is the JSON Schema of its arguments."""
    return Tool(
        function=tool_pb2.FunctionTool(
            name=name,
            description=description,
            parameters_json="" if parameters is None else json.dumps(parameters),
            strict=strict,
        )
    )


def _add_calls(steps: dict[str, RunStep], delta: run_event_pb2.StepDelta) -> None:
    calls = steps.setdefault(delta.step, RunStep(name=delta.step)).tool_calls.tool_calls
    for piece in delta.tool_calls:
        while len(calls) <= piece.index:
            calls.add()
        call = calls[piece.index]
        call.id += piece.id
        call.name += piece.name
        call.arguments_json += piece.arguments_json
        if piece.output:
            call.output += piece.output


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


def create_run_request(
    thread: str, assistant: str, fields: Mapping[str, Any]
) -> run_service_pb2.CreateRunRequest:
    """A request with its own id, so that it makes one run however often it is sent.

    `fields` are those of `Run`, and `additional_instructions` and `additional_messages`.
    """
    rest = dict(fields)
    return run_service_pb2.CreateRunRequest(
        parent=thread,
        additional_instructions=rest.pop("additional_instructions", ""),
        additional_messages=rest.pop("additional_messages", ()),
        run=Run(assistant=assistant, **rest),
        request_id=str(uuid.uuid4()),
    )


def create_thread_and_run_request(
    assistant: str, texts: Sequence[str], fields: Mapping[str, Any]
) -> run_service_pb2.CreateThreadAndRunRequest:
    """The same for a run on a thread of its own, which the user has begun with `texts`."""
    rest = dict(fields)
    return run_service_pb2.CreateThreadAndRunRequest(
        messages=[user_message(text) for text in texts],
        additional_instructions=rest.pop("additional_instructions", ""),
        run=Run(assistant=assistant, **rest),
        request_id=str(uuid.uuid4()),
    )


def user_message(text: str, *, metadata: Mapping[str, str] | None = None) -> Message:
    """A message of the user, to be created."""
    return Message(
        role=content_pb2.ROLE_USER,
        content=[content_pb2.ContentPart(text=content_pb2.Text(value=text))],
        metadata=metadata or {},
    )
