"""Threads as lines of JSON: ours go out and in again unchanged, OpenAI's come in, what is wrong is named."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from assistants.client import Client, Message, Run, RunStep, Thread, ToolChoice, function_tool
from assistants.client_errors import error_of
from assistants.config import ServerConfig
from assistants.domain.errors import (
    AlreadyExists,
    EventsPruned,
    FeatureUnavailable,
    InvalidArgument,
    NotFound,
    RequestIdReused,
    RunActive,
)
from assistants.server.app import Server
from assistants.v1 import run_service_pb2, run_service_pb2_grpc
from assistants.v1 import thread_transfer_service_pb2 as pb
from assistants.v1 import thread_transfer_service_pb2_grpc as pb_grpc
from runtime.events import ReasoningDelta, TextDelta, ToolCallDelta, ToolCallEnd, ToolCallStart, TurnEnd
from runtime.testing import ScriptedEngine
from runtime.types import FinishReason, Usage
from tests.serving import run_cli

USAGE = Usage(input_tokens=10, output_tokens=4, reasoning_output_tokens=1)
REQUEST_ID = "0d7f5b0e-6f0a-4b51-9d52-3d3a3a1d1b13"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    engine = ScriptedEngine(
        [
            [
                ReasoningDelta("Hm."),
                ToolCallStart("c", "now"),
                ToolCallDelta("{}"),
                ToolCallEnd(),
                TurnEnd(FinishReason.TOOL_CALLS, USAGE),
            ],
            [TextDelta("It is “noon”.\u2028Ünicode."), TurnEnd(FinishReason.STOP, USAGE)],
            [TextDelta("cut"), TurnEnd(FinishReason.LENGTH, USAGE)],
            [TextDelta("half"), RuntimeError("bug")],
        ]
    )
    config = ServerConfig(
        data_dir=tmp_path / "data",
        models_dir=tmp_path / "models",
        model="scripted",
        engine="scripted",
        grpc_address="127.0.0.1:0",
    )
    async with Server(config, engine=engine) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.address, timeout_s=20, patience_s=5) as client:
        yield client


async def talked(client: Client) -> str:
    """A thread with a run that called a function, one that was cut short and one that failed."""
    assistant = await client.create_assistant(
        model="scripted", tools=[function_tool("now")], instructions="Be."
    )
    stream = client.stream_thread_and_run(
        assistant.name,
        "What time is it?",
        tool_choice=ToolChoice(mode=ToolChoice.MODE_REQUIRED),
        metadata={"a": "b"},
    )
    calls = await stream.next_calls()
    await client.submit_tool_outputs(stream.run.name, {call.id: "noon" for call in calls})
    await stream.result()
    thread = stream.run.name.split("/runs/")[0]
    for _ in range(2):
        await client.create_message(thread, "And now?", metadata={"k": "v"})
        await client.stream(thread, assistant.name, include_reasoning=True).result()
    return thread


async def whole(client: Client, thread: str) -> tuple[Thread, list[Message], list[Run], list[RunStep]]:
    """All that the API tells of a thread."""
    stub = run_service_pb2_grpc.RunServiceStub(client.channel)
    runs = list((await stub.ListRuns(run_service_pb2.ListRunsRequest(parent=thread))).runs)
    steps = [step for run in runs async for step in client.list_run_steps(run.name)]
    messages = [message async for message in client.list_messages(thread)]
    return await client.get_thread(thread), messages, runs, steps


async def exported(client: Client, thread: str) -> list[str]:
    return [line async for line in client.export_thread(thread)]


async def test_a_thread_goes_out_and_in_again_unchanged(client: Client) -> None:
    thread = await talked(client)
    before, lines = await whole(client, thread), await exported(client, thread)
    assert [next(iter(json.loads(line))) for line in lines] == [
        *("thread", *["message"] * 6),
        *["run"] * 3,
        *["run_step"] * 4,
    ]
    await client.delete_thread(thread)
    imported = await client.import_thread(lines)
    assert imported == before[0]
    assert await whole(client, thread) == before
    assert await exported(client, thread) == lines
    states = [run.state for run in before[2]]
    assert states == [Run.STATE_FAILED, Run.STATE_INCOMPLETE, Run.STATE_COMPLETED]


async def test_an_imported_thread_can_be_talked_to_and_its_runs_can_be_watched(client: Client) -> None:
    lines = await exported(client, await talked(client))
    thread = (await client.import_thread(lines, new_ids=True)).name
    message = await client.create_message(thread, "More?")
    assert [m.name async for m in client.list_messages(thread)][-1] == message.name
    run = (await whole(client, thread))[2][0]
    with pytest.raises(EventsPruned) as refused:
        await client.watch(run.name).result()
    stream = client.watch(run.name, after_sequence=refused.value.oldest_sequence - 1)
    assert await stream.result() == run
    assistant = await client.create_assistant(model="scripted")
    failed = await client.stream(thread, assistant.name).result()
    assert failed.error.message.endswith("has no turn to play.")


async def test_new_ids_are_new_everywhere_and_nothing_else_is(client: Client) -> None:
    thread = await talked(client)
    lines = await exported(client, thread)
    copy = (await client.import_thread(lines, new_ids=True)).name
    assert copy != thread
    old, new = await whole(client, thread), await whole(client, copy)
    ids: dict[str, str] = {thread.removeprefix("threads/"): copy.removeprefix("threads/")}
    for one, other in zip(old[1] + old[2] + old[3], new[1] + new[2] + new[3], strict=True):  # type: ignore[operator]
        ids[one.name.rsplit("/", 1)[1]] = other.name.rsplit("/", 1)[1]
    assert len(set(ids.values())) == len(ids)
    assert not set(ids) & set(ids.values())
    text = "\n".join(await exported(client, copy))
    for old_id, new_id in ids.items():
        text = text.replace(new_id, old_id)
    keys = [line.split('"idempotency_key"')[0] for line in text.split("\n")]
    assert keys == [line.split('"idempotency_key"')[0] for line in lines]


async def test_ids_that_are_taken_are_refused_and_nothing_is_stored(client: Client) -> None:
    thread = await talked(client)
    lines = await exported(client, thread)
    with pytest.raises(AlreadyExists) as refused:
        await client.import_thread(lines)
    assert refused.value.metadata == {"resource_type": "thread", "name": thread}
    moved = [line.replace(thread.removeprefix("threads/"), "thread_other") for line in lines]
    with pytest.raises(AlreadyExists) as refused:
        await client.import_thread(moved)
    assert refused.value.resource_type == "message"
    with pytest.raises(NotFound):
        await client.get_thread("threads/thread_other")


async def test_a_request_that_is_sent_again_imports_once(client: Client) -> None:
    lines = await exported(client, await talked(client))
    stub = pb_grpc.ThreadTransferServiceStub(client.channel)

    async def requests(*pieces: bytes) -> AsyncIterator[pb.ImportThreadRequest]:
        for data in pieces:
            yield pb.ImportThreadRequest(data=data, new_ids=True, request_id=REQUEST_ID)

    data = "\n".join(lines).encode()
    first = await stub.ImportThread(requests(data))
    assert await stub.ImportThread(requests(data[:100], data[100:])) == first
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ImportThread(requests(data, b"\n"))
    assert isinstance(error_of(refused.value), RequestIdReused)


async def test_a_thread_with_an_active_run_is_not_exported(client: Client) -> None:
    assistant = await client.create_assistant(model="scripted", tools=[function_tool("now")])
    choice = ToolChoice(mode=ToolChoice.MODE_REQUIRED)
    stream = client.stream_thread_and_run(assistant.name, "What time is it?", tool_choice=choice)
    assert await stream.next_calls()
    with pytest.raises(RunActive):
        await exported(client, stream.run.name.split("/runs/")[0])
    with pytest.raises(NotFound):
        await exported(client, "threads/thread_none")


Edit = Callable[[list[dict[str, Any]]], object]
THREAD, FIRST, SECOND, RUN, STEP = 0, 1, 2, 7, 10


def change(line: int, path: str, value: object) -> Edit:
    def edit(lines: list[dict[str, Any]]) -> None:
        *parents, last = path.split(".")
        item: Any = lines[line]
        for part in parents:
            item = item[int(part)] if isinstance(item, list) else item[part]
        item[last] = value

    return edit


BAD: list[tuple[Edit, str, str]] = [
    (lambda lines: lines.pop(0), "line 1", "must be the thread"),
    (lambda lines: lines.append(lines[0]), "line 15", "second thread"),
    (change(THREAD, "format", 2), "line 1: format", "must be 1, got 2"),
    (change(THREAD, "format", None), "line 1: format", "must be 1, got None"),
    (change(THREAD, "thread.id", "a/b"), "line 1: thread.id", "must match"),
    (change(THREAD, "thread.metadata", {"": "x"}), "line 1: thread.metadata", "1 to 64"),
    (change(THREAD, "thread.update_time", "2020-01-01T00:00:00Z"), "line 1: thread.update_time", "before"),
    (change(THREAD, "thread.create_time", "2020-01-01T00:00:00"), "line 1: thread.create_time", "zone"),
    (change(THREAD, "thread.project_id", "other"), "line 1: thread.project_id", "no field"),
    (change(THREAD, "more", 1), "line 1: more", "no field"),
    (change(FIRST, "message.role", "system"), "line 2: message.role", "'system'"),
    (change(FIRST, "message.colour", "red"), "line 2: message.colour", "no field"),
    (change(FIRST, "message.content", []), "line 2: message.content", "1 to 64 items"),
    (change(FIRST, "message.content.0.value", ""), "line 2: message.content[0].text.value", "at least 1"),
    (change(FIRST, "message.content.0.value", 5), "line 2: message.content[0]", "string"),
    (
        change(FIRST, "message.content", [{"kind": "image_url", "url": "http://x"}]),
        "line 2: message.content[0].image_url",
        "text only",
    ),
    (change(FIRST, "message.state", "in_progress"), "line 2: message.state", "'in_progress'"),
    (change(FIRST, "message.thread_id", "thread_x"), "line 2: message.thread_id", "thread_x"),
    (change(FIRST, "message.position", -1), "line 2: message.position", "got -1"),
    (change(SECOND, "message.position", 0), "line 3: message.position", "as line 2 has"),
    (lambda lines: lines.insert(2, lines[1]), "line 3: message.id", "as line 2 has"),
    (change(FIRST, "message.end_time", "1999-01-01T00:00:00Z"), "line 2: message.end_time", "before"),
    (change(RUN, "run.status.state", "queued"), "line 8: run.status.state", "must be final"),
    (change(RUN, "run.status.end_time", None), "line 8: run.status.end_time", "is required"),
    (change(RUN, "run.settings.max_turns", 2**31), "line 8: run.settings.max_turns", "2147483647"),
    (change(RUN, "run.settings.ttl_s", 1e300), "line 8: run.settings.ttl_s", "between"),
    (change(RUN, "run.last_sequence", "5"), "line 8: run.last_sequence", "integer"),
    (change(STEP, "run_step.run_id", "run_x"), "line 11: run_step.run_id", "run_x"),
    (change(STEP, "run_step.index", 5), "line 11: run_step.index", "from 0"),
    (change(STEP, "run_step.state", "in_progress"), "line 11: run_step.state", "'in_progress'"),
    (change(STEP, "run_step.details", {"kind": "tool_calls"}), "line 11: run_step.details", "required"),
]


@pytest.mark.parametrize(("edit", "field", "rule"), BAD, ids=[field for _, field, _ in BAD])
async def test_a_bad_line_is_named_and_nothing_is_stored(
    client: Client, edit: Edit, field: str, rule: str
) -> None:
    thread = await talked(client)
    lines = [json.loads(line) for line in await exported(client, thread)]
    await client.delete_thread(thread)
    edit(lines)
    with pytest.raises(InvalidArgument) as refused:
        await client.import_thread([json.dumps(line) for line in lines])
    violation = refused.value.violations[0]
    assert violation.field.startswith(field), violation
    assert rule in violation.description, violation
    with pytest.raises(NotFound):
        await client.get_thread(thread)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "no line with a thread"),
        ("nonsense", "must be JSON"),
        ('{"thread": NaN}', "NaN is no JSON"),
        ("[1]", "must be a JSON object"),
        ("{}", "must have one of thread, message, run, run_step"),
        ('{"thread": 5, "format": 1}', "must be an object"),
        ('{"thread": {}, "format": 1}', "Field required"),
        ('{"object": "file"}', "must be one of thread, thread.message"),
        ('{"object": "list"}', "must be a list"),
        ('{"object": "thread", "id": "thread_1"}', "Field required"),
        ('{"object": "thread", "id": "thread_1", "created_at": -1}', "greater than or equal to 0"),
        ("[" * 100_000, "must be JSON"),
        ("\udcff", "must be JSON"),
    ],
)
async def test_what_is_no_thread_is_refused(client: Client, text: str, rule: str) -> None:
    stub = pb_grpc.ThreadTransferServiceStub(client.channel)

    async def requests() -> AsyncIterator[pb.ImportThreadRequest]:
        yield pb.ImportThreadRequest(data=text.encode(errors="surrogateescape"))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ImportThread(requests())
    error = error_of(refused.value)
    assert isinstance(error, InvalidArgument)
    assert error.violations[0].field.startswith("line 1")
    assert rule in error.message


# What OpenAI's API gave for a thread, its lists newest first, as by default.
OPENAI_THREAD = {
    "id": "thread_abc123",
    "object": "thread",
    "created_at": 1699014083,
    "metadata": {"user": "42"},
    "tool_resources": {"code_interpreter": {"file_ids": []}},
}
OPENAI_MESSAGES = {
    "object": "list",
    "data": [
        {
            "id": "msg_3",
            "object": "thread.message",
            "created_at": 1699014090,
            "thread_id": "thread_abc123",
            "status": "incomplete",
            "incomplete_details": {"reason": "max_tokens"},
            "incomplete_at": 1699014095,
            "role": "assistant",
            "content": [{"type": "text", "text": {"value": "It is", "annotations": []}}],
            "assistant_id": "asst_abc",
            "run_id": "run_abc",
            "attachments": [],
            "metadata": {},
        },
        {
            "id": "msg_2",
            "object": "thread.message",
            "created_at": 1699014083,
            "thread_id": "thread_abc123",
            "role": "user",
            "content": [{"type": "text", "text": {"value": "Well?", "annotations": []}}],
            "assistant_id": None,
            "run_id": None,
            "attachments": None,
            "metadata": None,
        },
        {
            "id": "msg_1",
            "object": "thread.message",
            "created_at": 1699014083,
            "thread_id": "thread_abc123",
            "role": "user",
            "content": [
                {
                    "type": "text",
                    "text": {
                        "value": "See [1]",
                        "annotations": [
                            {
                                "type": "file_citation",
                                "text": "[1]",
                                "start_index": 4,
                                "end_index": 7,
                                "file_citation": {"file_id": "file-1"},
                            }
                        ],
                    },
                }
            ],
        },
    ],
    "first_id": "msg_3",
    "last_id": "msg_1",
    "has_more": False,
}
OPENAI_RUN = {
    "id": "run_abc",
    "object": "thread.run",
    "created_at": 1699014084,
    "assistant_id": "asst_abc",
    "thread_id": "thread_abc123",
    "status": "incomplete",
    "started_at": 1699014085,
    "expires_at": None,
    "cancelled_at": None,
    "failed_at": None,
    "completed_at": 1699014095,
    "required_action": None,
    "last_error": None,
    "incomplete_details": {"reason": "max_completion_tokens"},
    "model": "o3-mini",
    "instructions": "Be brief.",
    "tools": [
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}, "strict": False}},
        {"type": "file_search"},
    ],
    "tool_choice": {"type": "function", "function": {"name": "now"}},
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "t", "schema": {"type": "object"}}},
    "truncation_strategy": {"type": "last_messages", "last_messages": 3},
    "reasoning_effort": "high",
    "temperature": 1.0,
    "top_p": 1.0,
    "max_prompt_tokens": None,
    "max_completion_tokens": 256,
    "usage": {"prompt_tokens": 20, "completion_tokens": 256, "total_tokens": 276},
    "metadata": {"k": "v"},
}
OPENAI_STEPS = [
    {
        "id": "step_1",
        "object": "thread.run.step",
        "created_at": 1699014085,
        "run_id": "run_abc",
        "assistant_id": "asst_abc",
        "thread_id": "thread_abc123",
        "type": "tool_calls",
        "status": "completed",
        "cancelled_at": None,
        "completed_at": 1699014089,
        "last_error": None,
        "step_details": {
            "type": "tool_calls",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "now", "arguments": "{}", "output": "12"},
                },
                {
                    "id": "call_2",
                    "type": "code_interpreter",
                    "code_interpreter": {"input": "1+1", "outputs": []},
                },
            ],
        },
        "usage": {"prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16},
    },
    {
        "id": "step_2",
        "object": "thread.run.step",
        "created_at": 1699014090,
        "run_id": "run_abc",
        "thread_id": "thread_abc123",
        "type": "message_creation",
        "status": "completed",
        "completed_at": 1699014095,
        "step_details": {"type": "message_creation", "message_creation": {"message_id": "msg_3"}},
        "usage": None,
    },
]
OPENAI = [OPENAI_THREAD, OPENAI_MESSAGES, OPENAI_RUN, *OPENAI_STEPS]


async def test_a_thread_of_openai_comes_in(client: Client) -> None:
    imported = await client.import_thread(json.dumps(item) for item in OPENAI)
    assert (imported.name, dict(imported.metadata)) == ("threads/thread_abc123", {"user": "42"})
    thread, messages, (run,), steps = await whole(client, imported.name)
    assert thread.create_time.ToSeconds() == 1699014083
    assert [message.name.rsplit("/", 1)[1] for message in messages] == ["msg_1", "msg_2", "msg_3"]
    assert [message.content[0].text.value for message in messages] == ["See [1]", "Well?", "It is"]
    assert messages[0].content[0].text.annotations[0].file_citation.file == "files/file-1"
    assert messages[2].incomplete_reason == Message.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS
    assert messages[2].run == run.name
    assert (run.state, run.incomplete_reason) == (
        Run.STATE_INCOMPLETE,
        Run.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS,
    )
    assert (run.model, run.instructions, run.max_output_tokens) == ("o3-mini", "Be brief.", 256)
    assert [tool.function.name or tool.builtin.name for tool in run.tools] == ["now", "file_search"]
    assert (run.tool_choice.tool, run.truncation_strategy.last_messages) == ("now", 3)
    assert (run.usage.input_tokens, run.usage.output_tokens) == (20, 256)
    assert run.end_time.ToSeconds() == 1699014095
    assert [step.index for step in steps] == [0, 1]
    calls = steps[0].tool_calls.tool_calls
    assert [(call.name, call.output, call.builtin) for call in calls] == [
        ("now", "12", False),
        ("code_interpreter", '{"input": "1+1", "outputs": []}', True),
    ]
    assert steps[1].message_creation.message == messages[2].name
    lines = await exported(client, imported.name)
    before = await whole(client, imported.name)
    await client.delete_thread(imported.name)
    await client.import_thread(lines)
    assert await whole(client, imported.name) == before


@pytest.mark.parametrize(
    ("line", "changes", "field", "error"),
    [
        (
            0,
            {"tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}}},
            "line 1: tool_",
            FeatureUnavailable,
        ),
        (2, {"status": "requires_action"}, "line 3: status", InvalidArgument),
        (2, {"thread_id": "thread_x"}, "line 3: run.thread_id", InvalidArgument),
        (2, {"reasoning_effort": "extreme"}, "line 3: reasoning_effort", InvalidArgument),
        (3, {"status": "in_progress"}, "line 4: run_step.state", InvalidArgument),
        (3, {"run_id": "run_x"}, "line 4: run_step.run_id", InvalidArgument),
        (3, {"step_details": {"type": "message_creation"}}, "line 4: step_details.", InvalidArgument),
    ],
)
async def test_what_does_not_fit_of_openai_is_named(
    client: Client, line: int, changes: dict[str, Any], field: str, error: type[Exception]
) -> None:
    items: list[dict[str, Any]] = [{**item} for item in OPENAI]
    items[line] |= changes
    with pytest.raises(error) as refused:
        await client.import_thread(json.dumps(item) for item in items)
    assert str(refused.value).startswith(field)


async def test_an_attachment_of_openai_is_refused(client: Client) -> None:
    data = [{**OPENAI_MESSAGES["data"][0], "attachments": [{"file_id": "file-1"}]}]  # type: ignore[index]
    with pytest.raises(FeatureUnavailable, match="line 2: attachments"):
        await client.import_thread([json.dumps(OPENAI_THREAD), json.dumps({"object": "list", "data": data})])


async def test_the_command_line_exports_and_imports(client: Client, server: Server, tmp_path: Path) -> None:
    thread = await talked(client)
    file = tmp_path / "thread.jsonl"
    target = ("--target", server.address)
    done = await run_cli("threads", "export", thread, "--output", str(file), *target)
    assert (done.code, done.stderr) == (0, "")
    assert file.read_text(encoding="utf-8").split("\n")[:-1] == await exported(client, thread)
    taken = await run_cli("threads", "import", str(file), *target)
    assert (taken.code, taken.stdout) == (1, "")
    assert taken.stderr == f"assistants: There is a thread with name '{thread}' already\n"
    copied = await run_cli("threads", "import", str(file), "--new-ids", *target)
    assert copied.code == 0
    assert len((await whole(client, copied.stdout.strip()))[1]) == 6
