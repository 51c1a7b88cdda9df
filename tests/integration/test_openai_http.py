"""The engine on somebody else's server: over real HTTP, with answers that were written down."""

import asyncio
import json
from typing import Any

import pytest

from runtime.engines.openai_http import OpenAIHttpEngine
from runtime.errors import (
    EngineFault,
    EngineUnavailable,
    OutputInvalid,
    SchemaRejected,
)
from runtime.events import (
    EngineEvent,
    LogprobsDelta,
    PromptProgress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    TurnEnd,
)
from runtime.loop import run_turns
from runtime.observe import NullObserver
from runtime.types import (
    FinishReason,
    FunctionTool,
    GenerateRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedToolChoice,
    Sampling,
    ToolChoiceMode,
    Usage,
    Vote,
)
from tests.scripted_http import (
    HELLO,
    Json,
    Play,
    ScriptedServer,
    answer,
    delta,
    events_of,
    usage,
)

MESSAGES = HELLO.messages
WEATHER = FunctionTool(
    name="get_weather",
    parameters_json=json.dumps(
        {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        }
    ),
)
CLOCK = FunctionTool(name="get_time")
TOOLS = GenerateRequest(messages=MESSAGES, tools=(WEATHER, CLOCK))
AGE = JsonSchemaFormat(
    name="person",
    schema_json='{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"],'
    ' "additionalProperties": false}',
    strict=True,
)
DOCUMENT = GenerateRequest(messages=MESSAGES, response_format=AGE)


def end_of(events: list[EngineEvent]) -> TurnEnd:
    assert isinstance(events[-1], TurnEnd)
    return events[-1]


def call(
    index: int | None = 0, call_id: str | None = None, name: str | None = None, arguments: Any = ""
) -> Json:
    part: Json = {"function": {"arguments": arguments} | ({"name": name} if name else {})}
    return part | ({"index": index} if index is not None else {}) | ({"id": call_id} if call_id else {})


def calls(*parts: Json) -> Json:
    return delta(tool_calls=list(parts))


# What goes right.


async def test_a_text_streams_and_ends_with_its_usage(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    details: Json = {
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    openai_server.plays.append(
        answer(delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), **details)
    )
    events = await events_of(openai_engine)
    assert events[:-1] == [TextDelta("Hel"), TextDelta("lo")]
    end = end_of(events)
    assert end.finish_reason is FinishReason.STOP
    assert end.usage == Usage(input_tokens=9, output_tokens=6, cached_input_tokens=4)
    assert end.timings.prompt_s > 0
    assert openai_server.bodies[0]["model"] == "acme/Model-8B"
    assert openai_server.bodies[0]["stream_options"] == {"include_usage": True}


async def test_the_model_is_as_the_server_says(openai_engine: OpenAIHttpEngine) -> None:
    assert openai_engine.model.name == "Model-8B"
    assert openai_engine.model.provider == "vllm"
    assert openai_engine.model.context_tokens == 4096
    assert openai_engine.ready


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_a_thought_is_a_part_of_its_own(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine, field: str
) -> None:
    openai_server.plays.append(
        answer(
            delta(**{field: "Well"}),
            delta(**{field: ", yes"}),
            delta(content="\n\nHello"),
            completion_tokens_details={"reasoning_tokens": 5},
        )
    )
    events = await events_of(openai_engine)
    assert events[:-1] == [ReasoningDelta("Well"), ReasoningDelta(", yes"), TextDelta("Hello")]
    assert end_of(events).usage.reasoning_output_tokens == 5


async def test_a_thought_in_tags_is_taken_off_the_text(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(
        answer(*(delta(content=piece) for piece in ("<thi", "nk>Well", "</th", "ink>\n\nHel", "lo")))
    )
    events = await events_of(openai_engine)
    assert events[:-1] == [ReasoningDelta("Well"), TextDelta("Hel"), TextDelta("lo")]
    assert end_of(events).usage.reasoning_output_tokens == 3, "counted by the server's tokenizer"


async def test_lines_end_at_line_feeds_only(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    text = "a\u2028b\u0085c\x0bd\r\ne"
    openai_server.plays.append(answer(delta(content=text)))
    assert (await events_of(openai_engine))[0] == TextDelta(text)


async def test_comments_and_other_fields_of_events_are_passed_over(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(
        Play(
            chunks=[delta(content="Hi"), delta("stop")],
            end=f": ping\r\n\r\nevent: chunk\r\ndata:{json.dumps(usage())}\r\n\r\ndata: [DONE]\r\n\r\n",
        )
    )
    assert (await events_of(openai_engine))[0] == TextDelta("Hi")


async def test_progress_on_the_prompt_is_told(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    progress = {"prompt_progress": {"total": 32, "cache": 8, "processed": 16, "time_ms": 1}}
    openai_server.plays.append(answer(delta(content=None) | progress, delta(content="Hi")))
    assert (await events_of(openai_engine))[:2] == [PromptProgress(16, 32), TextDelta("Hi")]


async def test_logprobs_are_those_of_the_answer(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    def with_logprob(text: str) -> Json:
        chunk = delta(content=text)
        likely = {"token": text, "logprob": -0.5, "bytes": list(text.encode())}
        chunk["choices"][0]["logprobs"] = {"content": [likely | {"top_logprobs": [likely, likely]}]}
        return chunk

    openai_server.plays.append(answer(*map(with_logprob, ("<think>", "hm", "</think>", "Hel", "lo"))))
    events = await events_of(openai_engine, GenerateRequest(messages=MESSAGES, top_logprobs=1))
    told = [token for event in events if isinstance(event, LogprobsDelta) for token in event.tokens]
    assert [token.token for token in told] == ["Hel", "lo"]
    assert (told[-1].logprob, told[-1].token_bytes, len(told[-1].top)) == (-0.5, b"lo", 1)
    assert openai_server.bodies[0]["top_logprobs"] == 1


# Tool calls.


async def test_calls_are_given_whole(openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine) -> None:
    openai_server.plays.append(
        answer(
            delta(reasoning="hm"),
            delta(content="Let me see."),
            calls(call(0, "call_a", "get_weather")),
            calls(call(0, arguments='{"city": ')),
            calls(call(1, "call_b", "get_time"), call(0, arguments='"Paris"}')),
            finish_reason="tool_calls",
        )
    )
    events = await events_of(openai_engine, TOOLS)
    assert events[:-1] == [
        ReasoningDelta("hm"),
        TextDelta("Let me see."),
        ToolCallStart("call_a", "get_weather"),
        ToolCallDelta('{"city": "Paris"}'),
        ToolCallEnd(),
        ToolCallStart("call_b", "get_time"),
        ToolCallDelta("{}"),
        ToolCallEnd(),
    ]
    assert end_of(events).finish_reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([call(0, "a", "get_time", "{}"), call(0, "b", "get_time", "{}")], id="each is number 0"),
        pytest.param(
            [call(None, "a", "get_time"), call(None, None, None, "{}"), call(None, "b", "get_time")],
            id="no number",
        ),
        pytest.param(
            [call(0, "a", "get_time", {}), call(1, "a", "get_time", {})], id="objects, and one id twice"
        ),
        pytest.param([call(0, None, "get_time"), call(1, None, "get_time")], id="no ids"),
    ],
)
async def test_servers_that_number_calls_in_their_own_way(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine, parts: list[Json]
) -> None:
    openai_server.plays.append(answer(*map(calls, parts), finish_reason="tool_calls"))
    started = [event for event in await events_of(openai_engine, TOOLS) if isinstance(event, ToolCallStart)]
    assert [event.name for event in started] == ["get_time", "get_time"]
    assert len({event.id for event in started}) == 2
    assert all(event.id for event in started)


async def test_of_several_calls_the_first_is_given_where_one_was_asked_for(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(answer(calls(call(0, "a", "get_time"), call(1, "b", "get_time"))))
    request = GenerateRequest(messages=MESSAGES, tools=(CLOCK,), parallel_tool_calls=False)
    events = await events_of(openai_engine, request)
    assert [event.id for event in events if isinstance(event, ToolCallStart)] == ["a"]
    assert end_of(events).finish_reason is FinishReason.TOOL_CALLS, "whatever the server calls it"


BAD_CALLS = [
    pytest.param(call(0, "a", "get_wether", "{}"), "there is no tool 'get_wether'", id="unknown tool"),
    pytest.param(call(0, "a", "get_weather", '{"city": "Par'), "not JSON", id="no JSON"),
    pytest.param(
        call(0, "a", "get_weather", '{"town": "Paris"}'), "'city' is a required property", id="schema"
    ),
    pytest.param(call(0, "a", "get_weather", "[]"), "is not of type 'object'", id="no object"),
]


@pytest.mark.parametrize(("part", "reason"), BAD_CALLS)
async def test_a_call_that_is_none_is_not_given(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine, part: Json, reason: str
) -> None:
    openai_server.plays.append(answer(delta(reasoning="hm"), calls(part), finish_reason="tool_calls"))
    given = []
    with pytest.raises(OutputInvalid, match=reason) as raised:
        async for event in openai_engine.generate(TOOLS):
            given.append(event)
    assert given == [], "not even the thought: the turn is asked for again"
    assert raised.value.usage.output_tokens == 6
    assert part["function"]["name"] in raised.value.document


@pytest.mark.parametrize(("part", "reason"), BAD_CALLS)
async def test_a_call_that_is_none_after_text_is_a_fault(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine, part: Json, reason: str
) -> None:
    openai_server.plays.append(answer(delta(content="Let me see."), calls(part), finish_reason="tool_calls"))
    with pytest.raises(EngineFault, match=reason):
        await events_of(openai_engine, TOOLS)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (ToolChoiceMode.REQUIRED, "a tool has to be called"),
        (NamedToolChoice(name="get_time"), "the tool 'get_time' has to be called"),
    ],
)
async def test_a_server_that_ignores_the_choice(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine, choice: Any, reason: str
) -> None:
    request = GenerateRequest(messages=MESSAGES, tools=(WEATHER, CLOCK), tool_choice=choice)
    openai_server.plays.append(answer(delta(content="It is "), delta(content="sunny.")))
    with pytest.raises(OutputInvalid, match=reason) as raised:
        await events_of(openai_engine, request)
    assert raised.value.document == "It is sunny."


async def test_a_named_choice_is_that_tool(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    request = GenerateRequest(
        messages=MESSAGES, tools=(WEATHER, CLOCK), tool_choice=NamedToolChoice(name="get_time")
    )
    openai_server.plays.append(answer(calls(call(0, "a", "get_weather", '{"city": "Paris"}'))))
    with pytest.raises(OutputInvalid, match="'get_time' has to be called, not 'get_weather'"):
        await events_of(openai_engine, request)


async def test_calls_that_nobody_asked_for(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    request = GenerateRequest(messages=MESSAGES, tools=(CLOCK,), tool_choice=ToolChoiceMode.NONE)
    openai_server.plays.append(answer(calls(call(0, "a", "get_time"))))
    with pytest.raises(OutputInvalid, match="there is no tool 'get_time'; there are: none"):
        await events_of(openai_engine, request)
    assert "tools" not in openai_server.bodies[0]


async def test_a_call_that_was_cut_is_none(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(
        answer(calls(call(0, "a", "get_weather", '{"city": "Par')), finish_reason="length")
    )
    (end,) = await events_of(openai_engine, TOOLS)
    assert isinstance(end, TurnEnd)
    assert end.finish_reason is FinishReason.LENGTH


async def test_a_bad_tool_is_refused_before_anything_is_asked(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    tool = FunctionTool(name="f", parameters_json='{"type": "objct"}')
    with pytest.raises(SchemaRejected, match=r"tools\[0\]"):
        await events_of(openai_engine, GenerateRequest(messages=MESSAGES, tools=(tool,)))
    assert openai_server.bodies == []


# Documents.


async def test_a_document_is_given_in_one_delta(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(
        answer(delta(reasoning="hm"), *(delta(content=piece) for piece in ('{"a', 'ge": ', "7}")))
    )
    events = await events_of(openai_engine, DOCUMENT)
    assert events[:-1] == [ReasoningDelta("hm"), TextDelta('{"age": 7}')]
    assert openai_server.bodies[0]["response_format"]["json_schema"]["schema"] == json.loads(AGE.schema_json)


async def test_a_document_in_a_fence_is_taken_out(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(answer(delta(content='```json\n{"age": 7}\n```\n')))
    assert (await events_of(openai_engine, DOCUMENT))[0] == TextDelta('{"age": 7}')


@pytest.mark.parametrize(
    ("text", "reason"),
    [("Seven.", "not JSON"), ('{"age": "7"}', "/age"), ('{"age": 7, "a": 8}', "'a'"), ("", "not JSON")],
)
async def test_a_document_that_misses_its_schema_is_not_given(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine, text: str, reason: str
) -> None:
    openai_server.plays.append(answer(delta(content=text)))
    with pytest.raises(OutputInvalid, match=reason) as raised:
        await events_of(openai_engine, DOCUMENT)
    assert raised.value.document == text
    assert raised.value.usage == Usage(input_tokens=9, output_tokens=6)


async def test_a_json_object_is_one(openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine) -> None:
    request = GenerateRequest(messages=MESSAGES, response_format=JsonObjectFormat())
    openai_server.plays += (answer(delta(content='{"a": [1]}')), answer(delta(content="[1]")))
    assert (await events_of(openai_engine, request))[0] == TextDelta('{"a": [1]}')
    with pytest.raises(OutputInvalid, match="object"):
        await events_of(openai_engine, request)


async def test_a_document_that_was_cut_says_so(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(answer(delta(content='{"ag'), finish_reason="length"))
    events = await events_of(openai_engine, DOCUMENT)
    assert events[0] == TextDelta('{"ag')
    assert end_of(events).finish_reason is FinishReason.LENGTH


async def test_a_document_or_a_call(openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine) -> None:
    request = GenerateRequest(messages=MESSAGES, tools=(CLOCK,), response_format=AGE)
    openai_server.plays += (
        answer(delta(content="Let me see."), calls(call(0, "a", "get_time"))),
        answer(delta(content='{"age": 7}')),
    )
    events = await events_of(openai_engine, request)
    assert events[0] == ToolCallStart("a", "get_time"), "text beside a call is no document"
    assert (await events_of(openai_engine, request))[0] == TextDelta('{"age": 7}')
    # Guided decoding would make calls impossible: the schema is asked for in words.
    assert "response_format" not in openai_server.bodies[0]
    assert AGE.schema_json in openai_server.bodies[0]["messages"][0]["content"]


async def test_the_loop_asks_again(openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine) -> None:
    openai_server.plays += (answer(delta(content="Seven.")), answer(delta(content='{"age": 7}')))
    events = [event async for event in run_turns(openai_engine, DOCUMENT, NullObserver())]
    assert TextDelta('{"age": 7}') in events
    assert events[-1].usage.output_tokens == 12  # type: ignore[union-attr]  # it is the TurnEnd
    assert "Seven." in [message["content"] for message in openai_server.bodies[1]["messages"]]


# Consensus.


async def test_the_majority_wins(openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine) -> None:
    for text in ("The answer is 4.", "The answer is 5.", "It is 2 + 3 = 5.", "The answer is 5"):
        openai_server.plays.append(
            answer(delta(reasoning="so"), *(delta(content=piece) for piece in (text[:4], text[4:])))
        )
    request = GenerateRequest(messages=MESSAGES, consensus=4, sampling=Sampling(seed=7))
    events = await events_of(openai_engine, request)
    assert [type(event) for event in events] == [ReasoningDelta, TextDelta, TurnEnd]
    assert "5" in events[1].text  # type: ignore[union-attr]  # it is the TextDelta
    end = end_of(events)
    assert end.votes == (Vote(answer="5", count=3), Vote(answer="4", count=1))
    assert end.usage.output_tokens == 24
    assert sorted(body["seed"] for body in openai_server.bodies) == [7, 8, 9, 10]


async def test_samples_that_miss_have_no_vote(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    request = GenerateRequest(messages=MESSAGES, response_format=AGE, consensus=3)
    for text in ("Seven.", '{"age": 7}', "{}"):
        openai_server.plays.append(answer(delta(content=text)))
    events = await events_of(openai_engine, request)
    assert events[0] == TextDelta('{"age": 7}')
    assert end_of(events).votes == (Vote(answer='{"age":7}', count=1),)
    assert end_of(events).usage.output_tokens == 18
    openai_server.plays += [answer(delta(content="Seven."))] * 3
    with pytest.raises(OutputInvalid) as raised:
        await events_of(openai_engine, request)
    assert raised.value.usage.output_tokens == 18


async def test_a_consensus_that_loses_its_server_ends(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    hangs = Play(chunks=[delta(content="Hi"), asyncio.Event()])
    openai_server.plays += (hangs, Play(chunks=[delta(content="Hi")], drops=True), hangs)
    with pytest.raises(EngineUnavailable):
        await events_of(openai_engine, GenerateRequest(messages=MESSAGES, consensus=3))
    async with asyncio.timeout(10):
        await openai_server.left.wait()
