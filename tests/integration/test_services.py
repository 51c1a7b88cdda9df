"""The resources over the wire: create, get, list, update, delete, and what is refused."""

import uuid
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from assistants.client import Assistant, Client, Message, Thread
from assistants.domain.errors import (
    EtagMismatch,
    FeatureUnavailable,
    InvalidArgument,
    NotFound,
    RequestIdReused,
)
from assistants.v1 import (
    assistant_service_pb2,
    assistant_service_pb2_grpc,
    common_pb2,
    content_pb2,
    message_service_pb2,
    message_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
    thread_service_pb2,
    thread_service_pb2_grpc,
    tool_pb2,
)


def text(value: str) -> content_pb2.ContentPart:
    return content_pb2.ContentPart(text=content_pb2.Text(value=value))


def fields(error: InvalidArgument) -> set[str]:
    return {violation.field for violation in error.violations}


class Stubs:
    """The generated stubs on the client's channel, for what the client does not offer."""

    def __init__(self, client: Client) -> None:
        channel = client.channel
        self.assistants = assistant_service_pb2_grpc.AssistantServiceStub(channel)
        self.threads = thread_service_pb2_grpc.ThreadServiceStub(channel)
        self.messages = message_service_pb2_grpc.MessageServiceStub(channel)
        self.runs = run_service_pb2_grpc.RunServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture
def stubs(client: Client) -> Stubs:
    return Stubs(client)


async def test_an_assistant_lives_its_life(client: Client) -> None:
    made = await client.create_assistant(
        model="scripted",
        display_name="Ada",
        instructions="Be brief.",
        effort=common_pb2.EFFORT_LOW,
        generation_params=common_pb2.GenerationParams(temperature=0, seed=7),
        metadata={"team": "a"},
    )
    assert made.name.startswith("assistants/asst_")
    assert made == await client.get_assistant(made.name)

    made.instructions = "Be long."
    made.display_name = "not in the mask"
    changed = await client.update_assistant(made, "instructions")
    assert (changed.instructions, changed.display_name) == ("Be long.", "Ada")
    assert changed.etag != made.etag
    assert changed.create_time == made.create_time

    made.instructions = "too late"
    with pytest.raises(EtagMismatch, match="read it again"):
        await client.update_assistant(made, "instructions")

    assert [assistant.name async for assistant in client.list_assistants()] == [made.name]
    await client.delete_assistant(made.name)
    with pytest.raises(NotFound) as missing:
        await client.get_assistant(made.name)
    assert (missing.value.resource_type, missing.value.name) == ("assistant", made.name)


async def test_an_update_without_a_mask_changes_what_is_set(client: Client) -> None:
    made = await client.create_assistant(model="scripted", display_name="Ada", instructions="Be brief.")
    changed = await client.update_assistant(Assistant(name=made.name, display_name="Eve"))
    assert (changed.display_name, changed.instructions, changed.model) == ("Eve", "Be brief.", "scripted")


async def test_a_field_in_the_mask_that_is_not_set_is_cleared(client: Client) -> None:
    made = await client.create_assistant(model="scripted", instructions="Be brief.", metadata={"a": "b"})
    changed = await client.update_assistant(Assistant(name=made.name), "instructions", "metadata")
    assert (changed.instructions, dict(changed.metadata)) == ("", {})


async def test_a_mask_with_an_unknown_path_is_refused(client: Client) -> None:
    made = await client.create_assistant(model="scripted")
    with pytest.raises(InvalidArgument, match="'colour'"):
        await client.update_assistant(made, "colour")
    unchanged = await client.update_assistant(made, "create_time")
    assert unchanged.create_time == made.create_time


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"model": ""}, "assistant.model"),
        ({"model": "gpt-x"}, "assistant.model"),
        ({"instructions": "x" * 256_001}, "assistant.instructions"),
        ({"display_name": "x" * 257}, "assistant.display_name"),
        ({"metadata": {"k": "v" * 513}}, "assistant.metadata['k']"),
        (
            {"generation_params": common_pb2.GenerationParams(temperature=3)},
            "assistant.generation_params.temperature",
        ),
        (
            {"model": "o3-mini", "generation_params": common_pb2.GenerationParams(temperature=1)},
            "assistant.generation_params.temperature",
        ),
        ({"effort": 99}, "assistant.effort"),
    ],
)
async def test_a_wrong_field_of_an_assistant_is_named_and_nothing_is_stored(
    client: Client, settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await client.create_assistant(**{"model": "scripted", **settings})
    assert fields(refused.value) == {field}
    assert [assistant async for assistant in client.list_assistants()] == []


async def test_what_this_version_cannot_do_is_refused_by_name(client: Client) -> None:
    tool = tool_pb2.Tool(builtin=tool_pb2.BuiltinTool(name="web_search"))
    with pytest.raises(FeatureUnavailable, match=r"assistant\.tools\[0\]\.builtin: .*'web_search'"):
        await client.create_assistant(model="scripted", tools=[tool])
    thread = await client.create_thread()
    assistant = await client.create_assistant(model="scripted")
    with pytest.raises(FeatureUnavailable, match=r"run\."):
        await client.create_run(thread.name, assistant.name, tools=[tool])


async def test_validate_only_checks_and_stores_nothing(client: Client, stubs: Stubs) -> None:
    request = assistant_service_pb2.CreateAssistantRequest(
        assistant=Assistant(model="scripted"), validate_only=True
    )
    assert (await stubs.assistants.CreateAssistant(request)).model == "scripted"
    assert [assistant async for assistant in client.list_assistants()] == []


async def test_a_request_id_makes_a_create_idempotent(client: Client, stubs: Stubs) -> None:
    request_id = str(uuid.uuid4())
    request = thread_service_pb2.CreateThreadRequest(
        thread=Thread(metadata={"a": "b"}), request_id=request_id
    )
    first = await stubs.threads.CreateThread(request)
    assert await stubs.threads.CreateThread(request) == first
    request.thread.metadata["a"] = "c"
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await stubs.threads.CreateThread(request)
    assert reused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert RequestIdReused.reason in str(rpc_status.from_call(reused.value))
    bad = thread_service_pb2.CreateThreadRequest(request_id="mine")
    with pytest.raises(grpc.aio.AioRpcError, match="must be a UUID"):
        await stubs.threads.CreateThread(bad)


async def test_every_error_has_one_error_info_and_its_detail(stubs: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.messages.CreateMessage(message_service_pb2.CreateMessageRequest())
    status = rpc_status.from_call(refused.value)
    assert status is not None
    infos = [d for d in status.details if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    requests = [d for d in status.details if d.Is(error_details_pb2.BadRequest.DESCRIPTOR)]
    assert (len(infos), len(requests)) == (1, 1)
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    infos[0].Unpack(info)
    requests[0].Unpack(bad_request)
    assert (info.reason, info.domain) == ("INVALID_FIELD", "assistants.v1")
    assert [v.field for v in bad_request.field_violations] == ["parent", "message"]


async def test_required_fields_are_named_at_any_depth(stubs: Stubs) -> None:
    request = message_service_pb2.CreateMessageRequest(
        parent="threads/x", message=Message(content=[text(""), content_pb2.ContentPart()])
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.messages.CreateMessage(request)
    details = refused.value.details() or ""
    assert "message.role: is required" in details
    assert "message.content[0].text.value: is required" in details


async def test_an_image_is_refused_by_name(client: Client, stubs: Stubs) -> None:
    thread = await client.create_thread()
    image = content_pb2.ContentPart(image_file=content_pb2.ImageFile(file="files/f"))
    request = message_service_pb2.CreateMessageRequest(
        parent=thread.name,
        message=Message(role=content_pb2.ROLE_USER, content=[text("look"), image]),
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.messages.CreateMessage(request)
    assert "message.content[1].image_file: images are not accepted: the model is text only" in (
        refused.value.details() or ""
    )
    assert [message async for message in client.list_messages(thread.name)] == []


async def test_messages_are_listed_in_order_both_ways(client: Client, stubs: Stubs) -> None:
    thread = await client.create_thread()
    made = [(await client.create_message(thread.name, f"message {n}")).name for n in range(7)]
    assert [message.name async for message in client.list_messages(thread.name)] == made

    newest_first = []
    request = message_service_pb2.ListMessagesRequest(parent=thread.name, page_size=3)
    while True:
        page = await stubs.messages.ListMessages(request)
        assert len(page.messages) <= 3
        newest_first += [message.name for message in page.messages]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert newest_first == made[::-1]


async def test_a_page_token_belongs_to_its_request(client: Client, stubs: Stubs) -> None:
    threads = [await client.create_thread() for _ in range(3)]
    page = await stubs.threads.ListThreads(thread_service_pb2.ListThreadsRequest(page_size=2))
    assert [thread.name for thread in page.threads] == [threads[2].name, threads[1].name]
    for request in (
        thread_service_pb2.ListThreadsRequest(page_token=page.next_page_token, order_by="create_time asc"),
        thread_service_pb2.ListThreadsRequest(page_token="garbage"),
        thread_service_pb2.ListThreadsRequest(page_token="Z2FyYmFnZQ=="),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="next_page_token of the last answer"):
            await stubs.threads.ListThreads(request)
    with pytest.raises(grpc.aio.AioRpcError, match="must not be negative, got -1"):
        await stubs.threads.ListThreads(thread_service_pb2.ListThreadsRequest(page_size=-1))
    with pytest.raises(grpc.aio.AioRpcError, match="'name'"):
        await stubs.threads.ListThreads(thread_service_pb2.ListThreadsRequest(order_by="name"))
    many = await stubs.threads.ListThreads(thread_service_pb2.ListThreadsRequest(page_size=10_000))
    assert len(many.threads) == 3


async def test_a_message_can_be_changed_and_deleted(client: Client, stubs: Stubs) -> None:
    thread = await client.create_thread()
    message = await client.create_message(thread.name, "hello", metadata={"a": "1"})
    message.metadata["a"] = "2"
    changed = await stubs.messages.UpdateMessage(message_service_pb2.UpdateMessageRequest(message=message))
    assert dict(changed.metadata) == {"a": "2"}
    mask = message_service_pb2.UpdateMessageRequest(message=message)
    mask.update_mask.paths.append("content")
    assert (await stubs.messages.UpdateMessage(mask)).content == message.content
    await stubs.messages.DeleteMessage(message_service_pb2.DeleteMessageRequest(name=message.name))
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await stubs.messages.GetMessage(message_service_pb2.GetMessageRequest(name=message.name))
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND


async def test_names_of_things_that_are_not_there(client: Client, stubs: Stubs) -> None:
    thread = await client.create_thread()
    for call in (
        client.get_assistant("assistants/asst_x"),
        client.get_thread("threads/thread_x"),
        client.create_message("threads/thread_x", "hello"),
        client.get_run(f"{thread.name}/runs/run_x"),
        client.cancel_run(f"{thread.name}/runs/run_x"),
        client.delete_thread("threads/thread_x"),
        client.create_run(thread.name, "assistants/asst_x"),
    ):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(NotFound):
        await client.watch(f"{thread.name}/runs/run_x").result()
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await stubs.runs.ListRuns(run_service_pb2.ListRunsRequest(parent="threads/thread_x"))
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND


async def test_deleting_a_thread_deletes_what_is_in_it(client: Client) -> None:
    assistant = await client.create_assistant(model="scripted")
    thread = await client.create_thread()
    message = await client.create_message(thread.name, "hello")
    run = await client.stream(thread.name, assistant.name).result()
    await client.delete_thread(thread.name)
    with pytest.raises(NotFound):
        await client.get_run(run.name)
    with pytest.raises(NotFound):
        _ = [m async for m in client.list_messages(message.name.rsplit("/", 2)[0])]


async def test_models_are_found_by_name_and_alias(client: Client, stubs: Stubs) -> None:
    [model] = await client.list_models()
    assert (model.name, model.provider) == ("models/scripted", "scripted")
    assert {alias.alias: alias.effort for alias in model.aliases}["o3-mini-high"] == common_pb2.EFFORT_HIGH
    by_alias = await stubs.models.GetModel(model_service_pb2.GetModelRequest(name="models/o3-mini"))
    assert by_alias == model
    refuses = {alias.alias: alias.sampling_parameters for alias in model.aliases}
    assert not refuses["o3-mini"]
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await stubs.models.GetModel(model_service_pb2.GetModelRequest(name="models/gpt-x"))
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_alias_brings_its_effort_unless_one_is_set(client: Client) -> None:
    assistant = await client.create_assistant(model="o3-mini-high")
    thread = await client.create_thread()
    await client.create_message(thread.name, "hello")
    run = await client.stream(thread.name, assistant.name).result()
    assert (run.model, run.effort) == ("o3-mini-high", common_pb2.EFFORT_HIGH)
    run = await client.stream(thread.name, assistant.name, effort=common_pb2.EFFORT_LOW).result()
    assert run.effort == common_pb2.EFFORT_LOW
