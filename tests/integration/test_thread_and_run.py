"""A thread, its messages and a run in one call: all or nothing."""

import asyncio

import grpc
import pytest

from assistants.client import Client, Run, user_message
from assistants.client_errors import error_of
from assistants.domain.errors import InvalidArgument, NotFound, RequestIdReused
from assistants.v1 import run_service_pb2 as pb
from assistants.v1 import run_service_pb2_grpc, thread_service_pb2, thread_service_pb2_grpc

REQUEST_ID = "0d7f5b0e-6f0a-4b51-9d52-3d3a3a1d1b12"


async def refused(client: Client, request: pb.CreateThreadAndRunRequest) -> Exception | None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await run_service_pb2_grpc.RunServiceStub(client.channel).CreateThreadAndRun(request)
    return error_of(raised.value)


async def threads(client: Client) -> int:
    stub = thread_service_pb2_grpc.ThreadServiceStub(client.channel)
    response = await stub.ListThreads(thread_service_pb2.ListThreadsRequest())
    return len(response.threads)


async def test_all_is_made_and_the_run_answers(client: Client) -> None:
    assistant = await client.create_assistant(model="scripted", instructions="Speak.")
    run = await client.create_thread_and_run(
        assistant.name, "one", "two", additional_instructions="Softly.", metadata={"a": "b"}
    )
    assert run.instructions == "Speak.\n\nSoftly."
    ended = await client.watch(run.name).result()
    assert ended.state == Run.STATE_COMPLETED
    texts = [m.content[0].text.value async for m in client.list_messages(run.name.split("/runs/")[0])]
    assert texts == ["one", "two", "two"]


async def test_the_stream_begins_with_the_first_event(client: Client) -> None:
    assistant = await client.create_assistant(model="scripted")
    stream = client.stream_thread_and_run(assistant.name, "hello there")
    events = [event async for event in stream]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert (stream.run.state, stream.text) == (Run.STATE_COMPLETED, "hello there")


async def test_a_request_that_is_sent_again_makes_nothing(client: Client) -> None:
    assistant = await client.create_assistant(model="scripted")
    request = pb.CreateThreadAndRunRequest(
        thread=thread_service_pb2.Thread(metadata={"k": "v"}),
        messages=[user_message("hi")],
        run=Run(assistant=assistant.name),
        request_id=REQUEST_ID,
    )
    stub = run_service_pb2_grpc.RunServiceStub(client.channel)
    runs = await asyncio.gather(*(stub.CreateThreadAndRun(request) for _ in range(8)))
    assert len({run.name for run in runs}) == 1
    assert await threads(client) == 1
    thread = await client.get_thread(runs[0].name.split("/runs/")[0])
    assert thread.metadata == {"k": "v"}
    async for event in stub.CreateThreadAndRunStream(request):
        assert event.run_changed.run.name in ("", runs[0].name)
    request.messages.append(user_message("more"))
    assert isinstance(await refused(client, request), RequestIdReused)


async def test_what_is_refused_makes_nothing_and_names_the_field(client: Client) -> None:
    assistant = await client.create_assistant(model="scripted")
    run = Run(assistant=assistant.name)
    thread = thread_service_pb2.Thread(metadata={"": "v"})
    cases = [
        (pb.CreateThreadAndRunRequest(), "run"),
        (pb.CreateThreadAndRunRequest(run=run, thread=thread), "thread.metadata"),
        (
            pb.CreateThreadAndRunRequest(run=run, messages=[user_message("")]),
            "messages[0].content[0].text.value",
        ),
        (pb.CreateThreadAndRunRequest(run=run, messages=[user_message("x")] * 257), "messages"),
        (
            pb.CreateThreadAndRunRequest(run=Run(assistant=assistant.name, max_turns=-1)),
            "run.max_turns",
        ),
        (
            pb.CreateThreadAndRunRequest(run=run, additional_instructions="x" * 256_001),
            "additional_instructions",
        ),
    ]
    for request, field in cases:
        error = await refused(client, request)
        assert isinstance(error, InvalidArgument)
        assert error.violations[0].field == field
    missing = pb.CreateThreadAndRunRequest(run=Run(assistant="assistants/asst_none"))
    assert isinstance(await refused(client, missing), NotFound)
    assert await threads(client) == 0


async def test_a_thread_without_messages_makes_a_run_that_fails(client: Client) -> None:
    assistant = await client.create_assistant(model="scripted")
    run = await client.watch((await client.create_thread_and_run(assistant.name)).name).result()
    assert run.state == Run.STATE_FAILED
    assert run.error.code == run.error.CODE_INVALID_PROMPT
