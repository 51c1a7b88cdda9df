"""What no honest client sends: each call is refused as the client's fault, and nothing of it is kept."""

import base64
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from assistants.client import Client, Message, Run, Thread
from assistants.domain.errors import InvalidArgument
from assistants.v1 import (
    content_pb2,
    message_service_pb2,
    message_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
    thread_service_pb2,
    thread_service_pb2_grpc,
)
from tests.integration.test_services import fields, text

LONG = "\U0001f4a5" * 50_000


class Stubs:
    """The generated stubs on the client's channel."""

    def __init__(self, client: Client) -> None:
        self.threads = thread_service_pb2_grpc.ThreadServiceStub(client.channel)
        self.messages = message_service_pb2_grpc.MessageServiceStub(client.channel)
        self.runs = run_service_pb2_grpc.RunServiceStub(client.channel)


@pytest.fixture
async def stubs(client: Client) -> AsyncIterator[Stubs]:
    yield Stubs(client)
    # Whatever was sent, the server serves on.
    assistant, thread = await client.create_assistant(model="scripted"), await client.create_thread()
    await client.create_message(thread.name, "still here?")
    assert (await client.stream(thread.name, assistant.name).result()).state == Run.STATE_COMPLETED


def user(*parts: content_pb2.ContentPart) -> Message:
    return Message(role=content_pb2.ROLE_USER, content=parts)


async def refused(call: Any) -> list[str]:
    """Fields of a call that is refused for its arguments."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    status = rpc_status.from_call(caught.value)
    assert status is not None
    bad_request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad_request) for detail in status.details)
    return [violation.field for violation in bad_request.field_violations]


async def test_what_is_quoted_in_an_error_fits_the_trailers(client: Client, stubs: Stubs) -> None:
    thread = await client.create_thread()
    update = thread_service_pb2.UpdateThreadRequest(thread=thread)
    get, list_ = thread_service_pb2.GetThreadRequest, thread_service_pb2.ListThreadsRequest
    assert await refused(stubs.threads.GetThread(get(name=LONG))) == ["name"]
    assert await refused(stubs.threads.ListThreads(list_(page_token=LONG))) == ["page_token"]
    assert await refused(stubs.threads.ListThreads(list_(order_by=LONG))) == ["order_by"]
    update.update_mask.CopyFrom(FieldMask(paths=[LONG]))
    assert await refused(stubs.threads.UpdateThread(update)) == ["update_mask"]
    update.update_mask.CopyFrom(FieldMask(paths=[f"field_{number}" for number in range(10_000)]))
    assert set(await refused(stubs.threads.UpdateThread(update))) == {"update_mask"}

    metadata = {f"{number}{LONG}"[:500]: LONG for number in range(20)}
    create = thread_service_pb2.CreateThreadRequest(thread=Thread(metadata=metadata))
    assert (await refused(stubs.threads.CreateThread(create)))[0] == "thread.metadata"
    empty = message_service_pb2.CreateMessageRequest(
        parent=thread.name,
        message=user(*(content_pb2.ContentPart(text=content_pb2.Text()) for _ in range(5_000))),
    )
    assert (await refused(stubs.messages.CreateMessage(empty)))[0] == "message.content[0].text.value"
    unknown = client.create_assistant(model=LONG)
    with pytest.raises(InvalidArgument) as caught:
        await unknown
    assert fields(caught.value) == {"assistant.model"}

    stale = thread_service_pb2.DeleteThreadRequest(name=thread.name, etag=LONG)
    with pytest.raises(grpc.aio.AioRpcError) as aborted:
        await stubs.threads.DeleteThread(stale)
    assert aborted.value.code() is grpc.StatusCode.ABORTED


@pytest.mark.parametrize("body", [b"\xff" * 9, b"\x0a\x02\xff\xfe", b"\x0a\xff\xff\xff\xff\x0f"])
async def test_bytes_that_are_no_request_are_the_clients_fault(
    client: Client, stubs: Stubs, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    unary: Any = client.channel.unary_unary("/assistants.v1.ThreadService/GetThread")
    assert await refused(unary(body)) == ["request"]
    stream: Any = client.channel.unary_stream("/assistants.v1.RunService/WatchRun")
    assert await refused(anext(aiter(stream(body)))) == ["request"]
    assert caplog.text == ""


async def test_page_tokens_are_not_trusted(
    client: Client, stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        await client.create_thread()
    list_ = thread_service_pb2.ListThreadsRequest
    token = (await stubs.threads.ListThreads(list_(page_size=1))).next_page_token
    micros, id_, binding = json.loads(base64.urlsafe_b64decode(token))
    hostile = (
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 5_000,
        json.dumps([2**63, id_, binding]),
        json.dumps([-(10**17), id_, binding]),
        json.dumps([micros, "\ud800", binding]),
        json.dumps([micros, None, binding]),
        json.dumps([micros, id_, "0" * 16]),
    )
    for payload in hostile:
        made = base64.urlsafe_b64encode(payload.encode()).decode()
        assert await refused(stubs.threads.ListThreads(list_(page_token=made))) == ["page_token"]
    assert await refused(stubs.threads.ListThreads(list_(page_token=token, order_by="create_time asc"))) == [
        "page_token"
    ]
    assert caplog.text == ""


async def test_what_is_not_text_is_refused_by_name(client: Client, stubs: Stubs) -> None:
    thread = await client.create_thread()
    for part in (
        content_pb2.ContentPart(image_file=content_pb2.ImageFile(file="files/x")),
        content_pb2.ContentPart(image_url=content_pb2.ImageUrl(url="http://x")),
        content_pb2.ContentPart(input_audio=content_pb2.InputAudio(data=b"x", format="wav")),
    ):
        create = message_service_pb2.CreateMessageRequest(parent=thread.name, message=user(text("a"), part))
        kind = part.WhichOneof("part")
        assert await refused(stubs.messages.CreateMessage(create)) == [f"message.content[1].{kind}"]


async def test_errors_name_the_field_where_the_client_wrote_it(client: Client, stubs: Stubs) -> None:
    assistant, thread = await client.create_assistant(model="scripted"), await client.create_thread()

    def create(**fields: Any) -> run_service_pb2.CreateRunRequest:
        run = Run(assistant=assistant.name)
        return run_service_pb2.CreateRunRequest(parent=thread.name, run=run, **fields)

    long = user(text("x" * 256_001))
    assert await refused(stubs.runs.CreateRun(create(additional_messages=[user(text("a")), long]))) == [
        "additional_messages[1].content[0].text.value"
    ]
    assert await refused(stubs.runs.CreateRun(create(additional_instructions="x" * 256_001))) == [
        "additional_instructions"
    ]
    file = user(content_pb2.ContentPart(file=content_pb2.FilePart(file="files/x")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.runs.CreateRun(create(additional_messages=[user(text("a")), file]))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (caught.value.details() or "").startswith("additional_messages[1].content[0].file: ")
    assert [message async for message in client.list_messages(thread.name)] == []

    request_id = str(uuid.uuid4())
    first, other = (
        message_service_pb2.CreateMessageRequest(
            parent=thread.name, message=user(text(body)), request_id=request_id
        )
        for body in ("a", "b")
    )
    await stubs.messages.CreateMessage(first)
    assert await refused(stubs.messages.CreateMessage(other)) == ["request_id"]
