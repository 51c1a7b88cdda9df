"""RunService over gRPC."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from assistants.domain.errors import InvalidArgument, Violation
from assistants.domain.message import NewMessage
from assistants.domain.names import parse_assistant, parse_run, parse_step, parse_thread
from assistants.domain.run import (
    DEFAULT_MAX_TURNS,
    DEFAULT_TTL_S,
    AutoTruncation,
    ConcurrencyPolicy,
    LastMessages,
    Run,
    Truncation,
)
from assistants.domain.run_event import RunEvent
from assistants.domain.tool import ToolOutput
from assistants.operations.new_run import NewRun
from assistants.operations.new_thread import NewThread
from assistants.operations.runs import RunOperations
from assistants.services.convert import (
    effort_from_proto,
    response_format_from_proto,
    sampling_from_proto,
    tool_choice_from_proto,
    tools_from_proto,
)
from assistants.services.messages import new_message_from_proto
from assistants.services.paging import next_page_token, page_request
from assistants.services.principal import PRINCIPAL
from assistants.services.requests import check_required, masked_fields, request_key, within
from assistants.services.run_convert import POLICIES, RunEvents, run_to_proto, step_to_proto
from assistants.v1 import message_service_pb2, run_event_pb2, run_pb2
from assistants.v1 import run_service_pb2 as pb
from assistants.v1 import run_service_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs only


class RunServicer(pb_grpc.RunServiceServicer):
    """Maps requests to operations."""

    def __init__(self, operations: RunOperations) -> None:
        self._operations = operations

    async def CreateRun(self, request: pb.CreateRunRequest, context: Context) -> run_pb2.Run:  # noqa: D102
        return run_to_proto(await self._create(request))

    async def CreateRunStream(  # noqa: D102
        self, request: pb.CreateRunRequest, context: Context
    ) -> AsyncIterator[run_event_pb2.RunEvent]:
        run = await self._create(request)
        async with aclosing(_to_proto(run, self._operations.follow(run))) as events:
            async for event in events:
                yield event

    async def CreateThreadAndRun(  # noqa: D102
        self, request: pb.CreateThreadAndRunRequest, context: Context
    ) -> run_pb2.Run:
        return run_to_proto(await self._create_with_thread(request))

    async def CreateThreadAndRunStream(  # noqa: D102
        self, request: pb.CreateThreadAndRunRequest, context: Context
    ) -> AsyncIterator[run_event_pb2.RunEvent]:
        run = await self._create_with_thread(request)
        async with aclosing(_to_proto(run, self._operations.follow(run))) as events:
            async for event in events:
                yield event

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> run_pb2.Run:  # noqa: D102
        check_required(request)
        return run_to_proto(await self._operations.get(PRINCIPAL.get(), *parse_run(request.name)))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:  # noqa: D102
        check_required(request)
        thread_id = None if request.parent == "threads/-" else parse_thread(request.parent, "parent")
        page = await self._operations.list(
            PRINCIPAL.get(), thread_id, page_request(request, request.order_by)
        )
        return pb.ListRunsResponse(
            runs=[run_to_proto(run) for run in page.items],
            next_page_token=next_page_token(request, page.next),
        )

    async def UpdateRun(self, request: pb.UpdateRunRequest, context: Context) -> run_pb2.Run:  # noqa: D102
        path = parse_run(request.run.name, "run.name")
        ignored = [field.name for field in run_pb2.Run.DESCRIPTOR.fields if field.name != "metadata"]
        fields = masked_fields(request.update_mask, request.run, ("metadata",), ignored)
        given = dict(request.run.metadata)
        with within("run"):
            run = await self._operations.update(
                PRINCIPAL.get(), *path, lambda metadata: given if "metadata" in fields else metadata
            )
        return run_to_proto(run)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> run_pb2.Run:  # noqa: D102
        check_required(request)
        return run_to_proto(await self._operations.cancel(PRINCIPAL.get(), *parse_run(request.name)))

    async def SubmitToolOutputs(  # noqa: D102
        self, request: pb.SubmitToolOutputsRequest, context: Context
    ) -> run_pb2.Run:
        check_required(request)
        path = parse_run(request.name)
        key = request_key("SubmitToolOutputs", request, request.request_id)
        outputs = [
            ToolOutput(tool_call_id=output.tool_call_id, output=output.output)
            for output in request.tool_outputs
        ]
        return run_to_proto(
            await self._operations.submit_tool_outputs(PRINCIPAL.get(), *path, outputs, request=key)
        )

    async def WatchRun(  # noqa: D102
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncIterator[run_event_pb2.RunEvent]:
        check_required(request)
        path = parse_run(request.name)
        run, followed = await self._operations.watch(PRINCIPAL.get(), *path, after=request.after_sequence)
        async with aclosing(_to_proto(run, followed)) as events:
            async for event in events:
                yield event

    async def GetRunStep(self, request: pb.GetRunStepRequest, context: Context) -> run_pb2.RunStep:  # noqa: D102
        check_required(request)
        return step_to_proto(await self._operations.get_step(PRINCIPAL.get(), *parse_step(request.name)))

    async def ListRunSteps(  # noqa: D102
        self, request: pb.ListRunStepsRequest, context: Context
    ) -> pb.ListRunStepsResponse:
        check_required(request)
        path = parse_run(request.parent, "parent")
        page = await self._operations.list_steps(
            PRINCIPAL.get(), *path, page_request(request, request.order_by)
        )
        return pb.ListRunStepsResponse(
            run_steps=[step_to_proto(step) for step in page.items],
            next_page_token=next_page_token(request, page.next),
        )

    async def _create(self, request: pb.CreateRunRequest) -> Run:
        check_required(request)
        thread_id = parse_thread(request.parent, "parent")
        # Both ways to create a run share their request ids.
        key = request_key("CreateRun", request, request.request_id)
        messages = _new_messages(request.additional_messages, "additional_messages")
        new = _new_run_from_proto(request.run, request.additional_instructions, messages)
        with within("run"):
            return await self._operations.create(PRINCIPAL.get(), thread_id, new, request=key)

    async def _create_with_thread(self, request: pb.CreateThreadAndRunRequest) -> Run:
        check_required(request)
        key = request_key("CreateThreadAndRun", request, request.request_id)
        messages = _new_messages(request.messages, "messages")
        thread = NewThread(messages=messages, metadata=dict(request.thread.metadata))
        new = _new_run_from_proto(request.run, request.additional_instructions)
        with within("run"):
            return await self._operations.create_with_thread(PRINCIPAL.get(), thread, new, request=key)


async def _to_proto(run: Run, events: AsyncGenerator[RunEvent]) -> AsyncGenerator[run_event_pb2.RunEvent]:
    made = RunEvents(run)
    async with aclosing(events):
        async for event in events:
            yield made.to_proto(event)


def _new_messages(messages: Sequence[message_service_pb2.Message], field: str) -> tuple[NewMessage, ...]:
    made = []
    for index, message in enumerate(messages):
        with within(f"{field}[{index}]"):
            made.append(new_message_from_proto(message))
    return tuple(made)


def _new_run_from_proto(
    run: run_pb2.Run, additional_instructions: str, additional_messages: tuple[NewMessage, ...] = ()
) -> NewRun:
    with within("run"):
        return NewRun(
            assistant_id=parse_assistant(run.assistant, "assistant"),
            model=run.model.removeprefix("models/") or None,
            instructions=run.instructions or None,
            additional_instructions=additional_instructions,
            additional_messages=additional_messages,
            tools=tools_from_proto(run.tools) or None,
            tool_choice=tool_choice_from_proto(run.tool_choice),
            parallel_tool_calls=run.parallel_tool_calls if run.HasField("parallel_tool_calls") else True,
            response_format=(
                response_format_from_proto(run.response_format) if run.HasField("response_format") else None
            ),
            effort=effort_from_proto(run.effort),
            sampling=sampling_from_proto(run.generation_params),
            consensus=run.consensus or 1,
            concurrency=_policy_from_proto(run.concurrency_policy),
            max_turns=run.max_turns or DEFAULT_MAX_TURNS,
            max_input_tokens=run.max_input_tokens if run.HasField("max_input_tokens") else None,
            max_output_tokens=run.max_output_tokens if run.HasField("max_output_tokens") else None,
            truncation=_truncation_from_proto(run.truncation_strategy),
            include_reasoning=run.include_reasoning,
            ttl_s=run.ttl.ToNanoseconds() / 1e9 if run.HasField("ttl") else DEFAULT_TTL_S,
            metadata=dict(run.metadata),
        )


def _policy_from_proto(policy: run_pb2.Run.ConcurrencyPolicy.ValueType) -> ConcurrencyPolicy:
    if policy == run_pb2.Run.CONCURRENCY_POLICY_UNSPECIFIED:
        return ConcurrencyPolicy.REJECT
    for known, value in POLICIES.items():
        if value == policy:
            return known
    raise InvalidArgument(Violation("concurrency_policy", f"must be a known policy, got {policy}"))


def _truncation_from_proto(strategy: run_pb2.TruncationStrategy) -> Truncation:
    if strategy.WhichOneof("strategy") == "last_messages":
        return LastMessages(count=strategy.last_messages)
    return AutoTruncation()
