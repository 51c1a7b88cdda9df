"""What a turn of a run gives besides its text: reasoning, votes, documents; and settings that are refused."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from assistants.client import (
    Client,
    Run,
    Tool,
    ToolChoice,
    function_tool,
)
from assistants.domain.errors import InvalidArgument
from assistants.v1 import common_pb2, run_pb2, run_service_pb2, run_service_pb2_grpc, tool_pb2
from runtime.errors import OutputInvalid, SchemaRejected
from runtime.events import (
    ReasoningDelta,
    TextDelta,
    TurnEnd,
)
from runtime.testing import ScriptedEngine, ScriptedStep
from runtime.types import ChatRole, FinishReason, Usage, Vote
from tests.integration.conftest import Serve
from tests.integration.tool_turns import (
    CALLED,
    NOW,
    REQUIRED,
    SCHEMA,
    USAGE,
    WEATHER,
    answer,
    ask,
    call,
    kinds,
    outputs_for,
    steps_of,
    until_paused,
)


async def test_reasoning_stays_within_its_run(serve: Serve) -> None:
    thinking: list[ScriptedStep] = [ReasoningDelta("hm, "), ReasoningDelta("hm!"), *call(), CALLED]
    engine = ScriptedEngine([thinking, answer(), answer()])
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant)
        await until_paused(stream)
        assert not stream.messages
        await client.submit_tool_outputs(stream.run.name, outputs_for(stream.run.required_action.tool_calls))
        await stream.result()
        told = repr([event async for event in client.watch(stream.run.name)])
        [step, _] = await steps_of(client, stream.run.name)
        stub = run_service_pb2_grpc.RunServiceStub(client.channel)
        got = await stub.GetRunStep(run_service_pb2.GetRunStepRequest(name=step.name))
        assert "hm!" not in told + repr(step) + repr(got)  # no id has an exclamation mark
        await client.create_message(thread, "next")
        await client.stream(thread, assistant).result()
    assert engine.requests[1].messages[-2].reasoning == "hm, hm!"
    assert not any(message.reasoning for message in engine.requests[2].messages)


async def test_reasoning_is_its_own_part_when_asked_for(serve: Serve) -> None:
    engine = ScriptedEngine(
        [[ReasoningDelta("hm"), *call(), CALLED], [ReasoningDelta("so"), *answer()], answer()]
    )
    async with serve(engine) as client:
        thread, assistant = await ask(client)
        stream = client.stream(thread, assistant, include_reasoning=True)
        await until_paused(stream)
        [step] = [step for step in stream.steps.values() if step.HasField("tool_calls")]
        assert step.tool_calls.reasoning == "hm"
        await client.submit_tool_outputs(stream.run.name, outputs_for(stream.run.required_action.tool_calls))
        await stream.result()
        stored = [message async for message in client.list_messages(thread, run=stream.run.name)]
        assert [[part.WhichOneof("part") for part in message.content] for message in stored] == [
            ["reasoning"],
            ["reasoning", "text"],
        ]
        assert list(stream.messages.values()) == stored
        assert stream.text == "Sunny."
        await client.create_message(thread, "next")
        await client.stream(thread, assistant).result()
    assert [m.content for m in engine.requests[1].messages] == ["hi", "", "sunny"]
    assert [m.content for m in engine.requests[2].messages] == ["hi", "Sunny.", "next"]


async def test_votes_and_an_early_close_are_kept_on_the_step(serve: Serve) -> None:
    end = TurnEnd(
        FinishReason.STOP,
        USAGE,
        votes=(Vote(answer="42", count=3), Vote(answer="41", count=1)),
        closed_early=True,
    )
    engine = ScriptedEngine([[TextDelta("42"), end]])
    async with serve(engine) as client:
        stream = client.stream(*(await ask(client)), consensus=4)
        await stream.result()
        [step] = await steps_of(client, stream.run.name)
        assert [(vote.answer, vote.count) for vote in step.votes] == [("42", 3), ("41", 1)]
        assert step.closed_early
    assert engine.requests[0].consensus == 4


def invalid(document: str) -> OutputInvalid:
    usage = Usage(input_tokens=10, output_tokens=3)
    return OutputInvalid(document=document, violations=(f"/n: {document!r} is no n",), usage=usage)


async def test_an_answer_that_misses_its_schema_is_asked_for_again(serve: Serve) -> None:
    engine = ScriptedEngine([[invalid("a")], [invalid("b")], answer('{"n": 1}')])
    async with serve(engine) as client:
        stream = client.stream(*(await ask(client)), response_format=SCHEMA, max_output_tokens=100)
        events = [event async for event in stream]
        assert stream.run.state == Run.STATE_COMPLETED
        assert stream.text == '{"n": 1}'
        assert kinds(events).count("run in_progress") == 1
        assert (stream.run.usage.input_tokens, stream.run.usage.output_tokens) == (30, 10)
        [step] = await steps_of(client, stream.run.name)
        assert step.usage == stream.run.usage
    first, second, third = engine.requests
    assert second.messages[:-2] == first.messages
    assert third.messages[:-2] == second.messages
    told, objection = second.messages[-2:]
    assert (told.role, told.content) == (ChatRole.ASSISTANT, "a")
    assert "/n: 'a' is no n" in objection.content
    assert [request.max_output_tokens for request in engine.requests] == [100, 97, 94]


async def test_a_run_fails_when_no_answer_satisfies_its_schema(serve: Serve) -> None:
    engine = ScriptedEngine([[invalid(text)] for text in "abc"])
    async with serve(engine) as client:
        run = await client.stream(*(await ask(client)), response_format=SCHEMA).result()
        assert run.state == Run.STATE_FAILED
        assert run.error.code == run_pb2.RunError.CODE_OUTPUT_INVALID
        assert "/n: 'c' is no n" in run.error.message
        assert run.usage.output_tokens == 9
    engine.assert_consumed()


async def test_a_schema_that_the_engine_refuses_fails_the_run(serve: Serve) -> None:
    rejected = SchemaRejected("keyword 'not' has no grammar", subject="response_format", path="/not")
    async with serve(ScriptedEngine([[rejected]])) as client:
        run = await client.stream(*(await ask(client)), response_format=SCHEMA).result()
        assert run.error.code == run_pb2.RunError.CODE_INVALID_PROMPT
        assert "/not" in run.error.message


async def test_an_engine_that_calls_what_it_was_not_given_is_at_fault(serve: Serve) -> None:
    async with serve(ScriptedEngine([[*call("rm_rf", "{}"), CALLED], [*answer()[:-1], CALLED]])) as client:
        for _ in range(2):
            run = await client.stream(*(await ask(client))).result()
            assert run.state == Run.STATE_FAILED
            assert run.error.code == run_pb2.RunError.CODE_SERVER_ERROR


def schema_tool(schema: str, **fields: Any) -> Tool:
    return Tool(function=tool_pb2.FunctionTool(name="f", parameters_json=schema, **fields))


BAD: Sequence[tuple[Mapping[str, Any], str, str]] = [
    ({"tools": [function_tool("a b")]}, "tools[0].function.name", "must match"),
    ({"tools": [function_tool("x" * 65)]}, "tools[0].function.name", "must match"),
    ({"tools": [NOW, WEATHER, NOW]}, "tools[2].function.name", "must be unique in the list, got 'now'"),
    ({"tools": [function_tool("f", "x" * 4_097)]}, "tools[0].function.description", "4096"),
    ({"tools": [function_tool(f"f{n}") for n in range(129)]}, "tools", "0 to 128 items, got 129"),
    ({"tools": [NOW, schema_tool("{")]}, "tools[1].function.parameters_json", "schema"),
    (
        {"tools": [schema_tool('{"type": "object", "properties": {"a": {"type": "strange"}}}')]},
        "tools[0].function.parameters_json",
        "/properties/a",
    ),
    (
        {"tools": [schema_tool('{"type": "object", "properties": {"a": {}}}', strict=True)]},
        "tools[0].function.parameters_json",
        "schema",
    ),
    (
        {
            "response_format": common_pb2.ResponseFormat(
                json_schema=common_pb2.JsonSchema(name="a b", schema_json="{}")
            )
        },
        "response_format.json_schema.name",
        "must match",
    ),
    (
        {
            "response_format": common_pb2.ResponseFormat(
                json_schema=common_pb2.JsonSchema(name="a", schema_json="[]")
            )
        },
        "response_format.json_schema.schema_json",
        "schema",
    ),
]


@pytest.mark.parametrize(("fields", "path", "rule"), BAD, ids=range(len(BAD)))
async def test_bad_tools_and_formats_are_refused_before_anything_is_stored(
    client: Client, fields: Mapping[str, Any], path: str, rule: str
) -> None:
    def told(error: InvalidArgument, prefix: str) -> str:
        return next(v.description for v in error.violations if v.field == f"{prefix}.{path}")

    with pytest.raises(InvalidArgument) as refused:
        await client.create_assistant(model="scripted", **fields)
    assert rule in told(refused.value, "assistant")
    assert [assistant async for assistant in client.list_assistants()] == []
    thread, assistant = await ask(client)
    made = await client.get_assistant(assistant)
    made.ClearField("tools")
    for name, value in fields.items():
        if isinstance(value, list):
            made.tools.extend(value)
        else:
            getattr(made, name).CopyFrom(value)
    with pytest.raises(InvalidArgument):
        await client.update_assistant(made, *fields)
    with pytest.raises(InvalidArgument) as refused:
        await client.create_run(thread, assistant, **fields)
    assert rule in told(refused.value, "run")
    stub = run_service_pb2_grpc.RunServiceStub(client.channel)
    assert not (await stub.ListRuns(run_service_pb2.ListRunsRequest(parent="threads/-"))).runs


async def test_a_choice_that_cannot_be_met_is_refused(client: Client) -> None:
    thread, assistant = await ask(client)
    with pytest.raises(InvalidArgument, match=r"run\.tool_choice\.tool: must name one of tools .*'f'"):
        await client.create_run(thread, assistant, tool_choice=ToolChoice(tool="f"))
    thread, assistant = await ask(client, tools=[])
    with pytest.raises(InvalidArgument, match=r"run\.tool_choice\.mode: must not be required without tools"):
        await client.create_run(thread, assistant, tool_choice=REQUIRED)
    run = await client.stream(thread, assistant, tool_choice=ToolChoice(mode=ToolChoice.MODE_NONE)).result()
    assert run.state == Run.STATE_COMPLETED
