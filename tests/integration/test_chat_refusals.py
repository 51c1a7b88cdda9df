"""Chat completions that are refused before the engine is asked, and those that the engine fails."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from assistants.client import Client
from assistants.client_chat import ChatMessage, assistant, message_text, system, tool_output, user
from assistants.client_errors import error_of
from assistants.domain.errors import (
    AssistantsError,
    FeatureUnavailable,
    InvalidArgument,
    OutputInvalid,
    Overloaded,
    Unavailable,
)
from assistants.v1 import chat_completion_service_pb2 as pb
from assistants.v1 import common_pb2, content_pb2, tool_pb2
from runtime.errors import (
    ContextExceeded,
    EngineFault,
    EngineOverloaded,
    EngineUnavailable,
    PromptRejected,
    SchemaRejected,
)
from runtime.errors import OutputInvalid as EngineOutputInvalid
from runtime.events import PromptProgress, TextDelta
from runtime.testing import ScriptedEngine
from tests.chats import (
    HELLO,
    JSON_OBJECT,
    LOOK,
    PLAIN,
    SCHEMA,
    STOP,
    USAGE,
    WatchedEngine,
    ask,
    chunks_of,
    same_answer,
    stub,
)
from tests.integration.conftest import Serve
from tests.integration.test_services import fields

# Refusals, all before the engine is asked.


def part(**kind: Any) -> ChatMessage:
    return ChatMessage(role=ChatMessage.ROLE_USER, content=[content_pb2.ContentPart(**kind)])


def asked(*calls: tuple[str, str]) -> ChatMessage:
    return ChatMessage(
        role=ChatMessage.ROLE_ASSISTANT,
        tool_calls=[tool_pb2.ToolCall(id=id_, name="look", arguments_json=text) for id_, text in calls],
    )


PARAMS = common_pb2.GenerationParams
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "is required"),
    ({"model": ""}, "model", "is required"),
    ({"model": "gpt-x"}, "model", "must be a model that is served (scripted, o3-mini"),
    ({"model": "models/gpt-x"}, "model", "must be a model that is served"),
    ({"messages": [ChatMessage(content=user("a").content)]}, "messages[0].role", "is required"),
    ({"messages": [ChatMessage(role=99)]}, "messages[0].role", "must be a known role, got 99"),  # type: ignore[arg-type]
    ({"messages": [user("")]}, "messages[0].content[0].text.value", "is required"),
    ({"messages": [ChatMessage(role=ChatMessage.ROLE_USER)]}, "messages[0].content", "1 to 64 items, got 0"),
    ({"messages": [part()]}, "messages[0].content[0]", "must set one of"),
    (
        {"messages": [user("a"), assistant("b"), part(image_url=content_pb2.ImageUrl(url="http://x"))]},
        "messages[2].content[0].image_url",
        "the model is text only",
    ),
    (
        {"messages": [part(input_audio=content_pb2.InputAudio(data=b"x"))]},
        "messages[0].content[0].input_audio",
        "the model is text only",
    ),
    (
        {"messages": [part(file=content_pb2.FilePart(file="files/x"))]},
        "messages[0].content[0].file",
        "the model is text only",
    ),
    (
        {"messages": [part(image_file=content_pb2.ImageFile(file="files/x"))]},
        "messages[0].content[0].image_file",
        "the model is text only",
    ),
    (
        {"messages": [user("a"), asked(("c", "{}"))]},
        "messages[1].tool_calls",
        "did not have response messages: c",
    ),
    (
        {"messages": [user("a"), asked(("c", "{"))]},
        "messages[1].tool_calls[0].arguments_json",
        "a JSON object",
    ),
    ({"messages": [user("a"), asked(("", "{}"))]}, "messages[1].tool_calls[0].id", "is required"),
    (
        {"messages": [user("a"), asked(("c", "{}"), ("c", "{}")), tool_output("c", "x")]},
        "messages[1].tool_calls[1].id",
        "must be unique",
    ),
    (
        {"messages": [user("a"), tool_output("c", "x")]},
        "messages[1].tool_call_id",
        "must answer an open call",
    ),
    ({"tools": [LOOK, LOOK]}, "tools[1].function.name", "must be unique"),
    ({"tools": [tool_pb2.Tool()]}, "tools[0]", "must set one of"),
    ({"tool_choice": tool_pb2.ToolChoice(tool="look")}, "tool_choice.tool", "must name one of tools"),
    (
        {"tool_choice": tool_pb2.ToolChoice(mode=tool_pb2.ToolChoice.MODE_REQUIRED)},
        "tool_choice.mode",
        "must not be required without tools",
    ),
    (
        {"tools": [tool_pb2.Tool(function=tool_pb2.FunctionTool(name="a", parameters_json="{"))]},
        "tools[0].function.parameters_json",
        "at the root of the schema",
    ),
    (
        {
            "response_format": common_pb2.ResponseFormat(
                json_schema=common_pb2.JsonSchema(name="a", schema_json='{"type": "strange"}')
            )
        },
        "response_format.json_schema.schema_json",
        "of the schema",
    ),
    ({"response_format": JSON_OBJECT}, "messages", "must contain the word 'json'"),
    (
        {"response_format": SCHEMA, "stop": ["}"]},
        "stop",
        "must be empty with the response format 'json_schema'",
    ),
    (
        {"response_format": JSON_OBJECT, "messages": [user("JSON")], "stop": ["}"]},
        "stop",
        "must be empty with the response format 'json_object'",
    ),
    ({"stop": list("abcde")}, "stop", "must have 0 to 4 items, got 5"),
    ({"stop": ["a", ""]}, "stop[1]", "at least 1 characters"),
    ({"stop": ["x" * 257]}, "stop[0]", "at most 256 characters, got 257"),
    ({"effort": 99}, "effort", "must be a known effort, got 99"),
    (
        {"generation_params": PARAMS(temperature=2.5)},
        "generation_params.temperature",
        "between 0 and 2, got 2.5",
    ),
    ({"generation_params": PARAMS(top_p=0)}, "generation_params.top_p", "must be above 0"),
    ({"generation_params": PARAMS(seed=-1)}, "generation_params.seed", "got -1"),
    (
        {"generation_params": PARAMS(presence_penalty=3)},
        "generation_params.presence_penalty",
        "between -2 and 2",
    ),
    (
        {"generation_params": PARAMS(frequency_penalty=float("nan"))},
        "generation_params.frequency_penalty",
        "got nan",
    ),
    ({"consensus": -1}, "consensus", "between 1 and 64, got -1"),
    ({"consensus": 65}, "consensus", "between 1 and 64, got 65"),
    ({"n": 17}, "n", "between 1 and 16, got 17"),
    ({"n": -1}, "n", "between 1 and 16, got -1"),
    ({"n": 2, "consensus": 3}, "n", "must be 1 with consensus 3, which gives one answer, got 2"),
    ({"logprobs": True, "consensus": 3}, "logprobs", "must not be set with consensus 3"),
    ({"top_logprobs": 2}, "top_logprobs", "must not be set without logprobs, got 2"),
    ({"top_logprobs": 0}, "top_logprobs", "must not be set without logprobs, got 0"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "between 0 and 20, got 21"),
    ({"max_output_tokens": 0}, "max_output_tokens", "between 1 and the model's context of 100 tokens, got 0"),
    ({"max_output_tokens": 101}, "max_output_tokens", "got 101"),
    ({"model": "o3-mini", "logprobs": True}, "logprobs", "is not supported with the model 'o3-mini'"),
    ({"model": "o3-mini", "top_logprobs": 1}, "top_logprobs", "is not supported with the model 'o3-mini'"),
    (
        {"model": "o3-mini", "generation_params": PARAMS(frequency_penalty=1)},
        "generation_params.frequency_penalty",
        "is not supported with the model 'o3-mini'",
    ),
    (
        {"model": "models/o3-mini", "generation_params": PARAMS(presence_penalty=1)},
        "generation_params.presence_penalty",
        "is not supported with the model 'o3-mini'",
    ),
    (
        {"model": "o3-mini", "generation_params": PARAMS(temperature=1)},
        "generation_params.temperature",
        "is not supported with the model 'o3-mini'",
    ),
]


async def test_what_breaks_a_rule_is_refused_by_field_and_rule(serve: Serve) -> None:
    engine = ScriptedEngine(logprobs=True, context_tokens=100)
    async with serve(engine) as client:
        for given, field, rule in REFUSED:
            request: dict[str, Any] = {"model": "scripted", "messages": HELLO} | given
            with pytest.raises(InvalidArgument) as unary:
                await client.create_chat_completion(**request)
            with pytest.raises(InvalidArgument) as stream:
                await client.stream_chat_completion(**request).result()
            assert str(unary.value) == str(stream.value)
            found = {violation.field: violation.description for violation in unary.value.violations}
            assert rule in found.get(field, ""), (given, found)
    assert engine.requests == []


async def test_all_sampling_parameters_that_an_alias_refuses_are_named(serve: Serve) -> None:
    async with serve(ScriptedEngine([PLAIN], logprobs=True)) as client:
        params = PARAMS(temperature=1, top_p=1, presence_penalty=0, frequency_penalty=0, seed=1)
        with pytest.raises(InvalidArgument) as refused:
            await client.create_chat_completion(
                model="o3-mini", messages=HELLO, generation_params=params, logprobs=True, top_logprobs=1
            )
        assert fields(refused.value) == {
            "generation_params.temperature",
            "generation_params.top_p",
            "generation_params.presence_penalty",
            "generation_params.frequency_penalty",
            "logprobs",
            "top_logprobs",
        }
        await client.create_chat_completion(
            model="o3-mini", messages=HELLO, generation_params=PARAMS(seed=1), stop=["x"]
        )


async def test_a_model_without_logprobs_refuses_them(client: Client) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await ask(client, logprobs=True)
    assert str(refused.value) == "logprobs: is not supported with the model 'scripted'"


async def test_builtin_tools_are_refused_by_name(client: Client) -> None:
    search = tool_pb2.Tool(builtin=tool_pb2.BuiltinTool(name="web_search"))
    with pytest.raises(FeatureUnavailable, match=r"^tools\[1\].builtin: .*'web_search'"):
        await ask(client, tools=[LOOK, search])


async def test_a_json_object_needs_the_word_json_in_some_form(serve: Serve) -> None:
    turn = (TextDelta("{}"), STOP)
    async with serve(ScriptedEngine([turn, turn])) as client:
        await ask(client, [system("Answer in Json."), user("hello")], response_format=JSON_OBJECT)
        await ask(client, [user("hello"), assistant("some json?"), user("yes")], response_format=JSON_OBJECT)


# What becomes of a broken engine.


async def failed(client: Client, error: Exception, kind: type[AssistantsError]) -> tuple[str, str]:
    """What a unary call and a stream tell of an engine's error, which must be the same."""
    with pytest.raises(kind) as unary:
        await ask(client)
    with pytest.raises(kind) as stream:
        await chunks_of(client)
    assert type(unary.value) is type(stream.value) is kind
    assert str(unary.value) == str(stream.value)
    return unary.value.reason, str(unary.value)


@pytest.mark.parametrize(
    ("error", "kind", "reason", "message"),
    [
        (
            PromptRejected("roles must alternate"),
            InvalidArgument,
            "INVALID_FIELD",
            "messages: roles must alternate",
        ),
        (
            ContextExceeded(prompt_tokens=9, context_tokens=8),
            InvalidArgument,
            "INVALID_FIELD",
            "messages: The prompt has 9 tokens; the context of the model has 8.",
        ),
        (
            SchemaRejected("too large", subject="tools[0].function.parameters_json", path="/a"),
            InvalidArgument,
            "INVALID_FIELD",
            "tools[0].function.parameters_json: at /a of the schema: too large",
        ),
    ],
)
async def test_a_prompt_that_the_engine_rejects_is_the_clients_fault(
    serve: Serve, error: Exception, kind: type[AssistantsError], reason: str, message: str
) -> None:
    async with serve(ScriptedEngine([[error], [error]])) as client:
        assert await failed(client, error, kind) == (reason, message)


async def test_an_answer_that_never_satisfies_its_schema_is_an_error(serve: Serve) -> None:
    missed = EngineOutputInvalid(document="{}", violations=("a is missing", "b is not unique"), usage=USAGE)
    engine = ScriptedEngine([[missed]] * 9)
    async with serve(engine) as client:
        reason, message = await failed(client, missed, OutputInvalid)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(client).CreateChatCompletion(
                pb.CreateChatCompletionRequest(model="scripted", messages=HELLO)
            )
    assert caught.value.code() is grpc.StatusCode.ABORTED
    engine.assert_consumed()
    assert (reason, message) == (
        "OUTPUT_INVALID",
        "The answer does not satisfy its schema: a is missing; b is not unique",
    )


async def test_an_answer_that_satisfies_its_schema_at_the_second_try_is_given(serve: Serve) -> None:
    missed = EngineOutputInvalid(document="[1, 1]", violations=("items are not unique",), usage=USAGE)
    engine = ScriptedEngine([[missed], [TextDelta('{"a": 1}'), STOP]])
    async with serve(engine) as client:
        answer = await ask(client, response_format=SCHEMA)
    assert message_text(answer.choices[0].message) == '{"a": 1}'
    assert answer.usage.output_tokens == 2 * USAGE.output_tokens


async def test_a_full_queue_says_when_to_try_again(serve: Serve) -> None:
    async with serve(ScriptedEngine([[EngineOverloaded("No slot is free.")]])) as client:
        request = pb.CreateChatCompletionRequest(model="scripted", messages=HELLO)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub(client).CreateChatCompletion(request)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    status = rpc_status.from_call(caught.value)
    assert status is not None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert any(detail.Unpack(retry) for detail in status.details)
    assert (info.reason, retry.retry_delay.ToNanoseconds()) == ("OVERLOADED", 1_000_000_000)
    told = error_of(caught.value)
    assert type(told) is Overloaded
    assert (str(told), told.retry_after_s) == ("No slot is free.", 1)


async def test_a_patient_client_waits_for_a_full_queue(serve: Serve) -> None:
    overloaded = [EngineOverloaded("No slot is free.")]
    async with serve(ScriptedEngine([overloaded, PLAIN, overloaded, PLAIN])) as client:
        assert same_answer(await ask(client), (await chunks_of(client))[1])


async def test_an_engine_that_dies_before_it_speaks_is_tried_again(serve: Serve) -> None:
    engine = ScriptedEngine([[PromptProgress(1, 9), EngineUnavailable("gone")], PLAIN])
    async with serve(engine) as client:
        assert message_text((await ask(client)).choices[0].message) == "Hello you"
    engine.assert_consumed()


async def test_a_stream_whose_engine_dies_ends_unavailable(serve: Serve) -> None:
    engine = ScriptedEngine([[TextDelta("half"), EngineUnavailable("killed by signal 9")]])
    async with serve(engine) as client:
        stream = client.stream_chat_completion(model="scripted", messages=HELLO)
        with pytest.raises(Unavailable, match="The engine is not available: killed by signal 9"):
            await stream.result()
        assert message_text(stream.completion.choices[0].message) == "half"
    engine.assert_consumed()


async def test_a_fault_of_the_engine_is_logged_and_not_told(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(ScriptedEngine([[EngineFault("SECRET at 0x1")], [TextDelta("half")]])) as client:
        request = pb.CreateChatCompletionRequest(model="scripted", messages=HELLO)
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub(client).CreateChatCompletion(request)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert caught.value.details() == "internal error"
    assert "SECRET" in caplog.text


async def test_one_choice_that_fails_ends_the_others(serve: Serve) -> None:
    never = asyncio.Event()
    engine = WatchedEngine((never,), (TextDelta("a"), PromptRejected("no")))
    async with serve(engine) as client:
        with pytest.raises(InvalidArgument):
            await ask(client, n=2)
        assert engine.generating == 0


# What no honest client sends.

LONG = "\U0001f4a5" * 50_000


@pytest.mark.parametrize("body", [b"\xff" * 9, b"\x0a\x02\xff\xfe", b"\x12\xff\xff\xff\xff\x0f"])
async def test_bytes_that_are_no_request_are_the_clients_fault(
    client: Client, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    service = "/assistants.v1.ChatCompletionService"
    unary: Any = client.channel.unary_unary(f"{service}/CreateChatCompletion")
    stream: Any = client.channel.unary_stream(f"{service}/StreamChatCompletion")
    for call in (unary(body), anext(aiter(stream(body)))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caplog.text == ""


async def test_what_is_quoted_in_an_error_fits_the_trailers(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    many = [asked(*((LONG[:100], "{") for _ in range(128)))] * 30
    for given, field in (
        ({"model": LONG}, "model"),
        ({"stop": [LONG]}, "stop[0]"),
        ({"tools": [LOOK], "tool_choice": tool_pb2.ToolChoice(tool=LONG)}, "tool_choice.tool"),
        (
            {"messages": [user("a"), asked((LONG[:256], LONG)), tool_output(LONG, "x")]},
            "messages[1].tool_calls",
        ),
        ({"messages": many}, "messages[0].tool_calls"),
        ({"messages": [ChatMessage(role=ChatMessage.ROLE_USER)] * 5_000}, "messages"),
        ({"messages": [ChatMessage()] * 5_000}, "messages[0].role"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            await client.create_chat_completion(**({"model": "scripted", "messages": HELLO} | given))
        assert any(name.startswith(field) for name in fields(refused.value)), (field, fields(refused.value))
    assert caplog.text == ""
    assert message_text((await ask(client)).choices[0].message) == "hello"
