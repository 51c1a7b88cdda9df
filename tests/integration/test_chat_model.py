"""Chat completions of the real model, in a real server process."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from assistants.client import Client
from assistants.client_chat import (
    ChatCompletion,
    assistant,
    chunk_text,
    message_text,
    system,
    tool_output,
    user,
)
from assistants.domain.errors import InvalidArgument, Unavailable
from assistants.v1 import chat_completion_service_pb2 as pb
from assistants.v1 import common_pb2, tool_pb2
from runtime.models.catalog import DEFAULT_MODEL
from tests.chats import same_answer
from tests.serving import ServerProcess, serving

pytestmark = [
    pytest.mark.real_model,
    # One server for the module: its client lives on the loop that made it.
    pytest.mark.asyncio(loop_scope="module"),
]

SEA = [system("Answer in one short sentence."), user("Tell me about the sea.")]
GREEDY = common_pb2.GenerationParams(temperature=0)
ORDER_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome"]},
        "nights": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "nights"],
    "additionalProperties": False,
}
ORDER = common_pb2.ResponseFormat(
    json_schema=common_pb2.JsonSchema(name="order", schema_json=json.dumps(ORDER_SCHEMA), strict=True)
)
WEATHER = tool_pb2.Tool(
    function=tool_pb2.FunctionTool(
        name="get_weather",
        description="The weather in a city.",
        parameters_json=json.dumps(
            {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            }
        ),
        strict=True,
    )
)
REQUIRED = tool_pb2.ToolChoice(mode=tool_pb2.ToolChoice.MODE_REQUIRED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """A server with one slot; `model_path` is there so that its model is."""
    options = ("--model", DEFAULT_MODEL, "--slots", "1", "--context-tokens", "1024")
    async with serving(tmp_path_factory.mktemp("data"), *options) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(server: ServerProcess) -> AsyncIterator[Client]:
    async with server.client() as client:
        yield client


async def ask(client: Client, messages: list[pb.ChatMessage] = SEA, **fields: Any) -> ChatCompletion:
    chosen: dict[str, Any] = {"generation_params": GREEDY, "max_output_tokens": 24} | fields
    return await client.create_chat_completion(model=DEFAULT_MODEL, messages=messages, **chosen)


async def test_a_plain_answer(client: Client) -> None:
    answer = await ask(client)
    [choice] = answer.choices
    assert answer.model == f"models/{DEFAULT_MODEL}"
    assert message_text(choice.message).strip()
    assert choice.finish_reason in (pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH)
    assert answer.usage.input_tokens > 10
    assert 0 < answer.usage.output_tokens <= 24


async def test_a_stream_gives_the_same_answer_and_the_prompt_is_cached(client: Client) -> None:
    whole = await ask(client)
    stream = client.stream_chat_completion(
        model=DEFAULT_MODEL, messages=SEA, generation_params=GREEDY, max_output_tokens=24
    )
    pieces = [chunk_text(chunk) async for chunk in stream]
    assert len([piece for piece in pieces if piece]) > 1
    assert "".join(pieces) == message_text(whole.choices[0].message)
    assert stream.completion.usage.cached_input_tokens > 0


async def test_a_seed_gives_the_same_choices_again(client: Client) -> None:
    params = common_pb2.GenerationParams(temperature=1.5, seed=11)
    first, second = [await ask(client, n=3, generation_params=params) for _ in range(2)]
    first.usage.ClearField("cached_input_tokens")
    second.usage.ClearField("cached_input_tokens")
    assert same_answer(first, second)
    assert len({message_text(choice.message) for choice in first.choices}) == 3
    alone = await ask(client, generation_params=common_pb2.GenerationParams(temperature=1.5, seed=12))
    assert message_text(alone.choices[0].message) == message_text(first.choices[1].message)


async def test_a_stop_text_ends_the_answer_before_it(client: Client) -> None:
    text = message_text((await ask(client)).choices[0].message)
    stop = text.split()[2]
    [choice] = (await ask(client, stop=[stop])).choices
    assert choice.finish_reason == pb.FINISH_REASON_STOP
    assert message_text(choice.message) == text[: text.index(stop)]


async def test_logprobs_of_a_greedy_answer_are_those_of_the_likeliest_tokens(client: Client) -> None:
    [choice] = (await ask(client, logprobs=True, top_logprobs=2)).choices
    assert b"".join(token.token_bytes for token in choice.logprobs).decode() == message_text(choice.message)
    for token in choice.logprobs:
        assert token.logprob <= 0
        assert len(token.top) == 2
        assert token.top[0].token_bytes == token.token_bytes


async def test_a_client_that_leaves_frees_the_only_slot(client: Client) -> None:
    endless = client.stream_chat_completion(
        model=DEFAULT_MODEL, messages=[user("Count from one to one thousand in words.")]
    )
    async with asyncio.timeout(60):
        async for chunk in endless:
            if chunk_text(chunk):
                break
        await ask(client)


async def test_a_conversation_longer_than_the_context_is_refused(client: Client) -> None:
    with pytest.raises(InvalidArgument, match=r"^messages: The prompt has \d+ tokens; .* has 1024"):
        await ask(client, [user("sea " * 2_000)])


async def test_an_answer_satisfies_its_schema(client: Client) -> None:
    messages = [user("I want to stay in Rome for three nights. Answer in JSON.")]
    [choice] = (await ask(client, messages, response_format=ORDER, max_output_tokens=64)).choices
    assert choice.finish_reason == pb.FINISH_REASON_STOP
    document = json.loads(message_text(choice.message))
    assert list(document) == ["city", "nights"]
    assert document["city"] in ("Paris", "Rome")
    assert 1 <= document["nights"] <= 9

    json_object = common_pb2.ResponseFormat(json_object=common_pb2.ResponseFormat.JsonObject())
    [choice] = (await ask(client, messages, response_format=json_object, max_output_tokens=64)).choices
    if choice.finish_reason == pb.FINISH_REASON_STOP:
        assert isinstance(json.loads(message_text(choice.message)), dict)


async def test_a_required_tool_is_called_and_its_output_answered(client: Client) -> None:
    question = user("What is the weather in Paris?")
    answer = await ask(client, [question], tools=[WEATHER], tool_choice=REQUIRED, max_output_tokens=128)
    [choice] = answer.choices
    assert choice.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.name == "get_weather"
        assert json.loads(call.arguments_json)["city"] in ("Paris", "Rome")

    outputs = [tool_output(call.id, '{"sky": "blue"}') for call in choice.message.tool_calls]
    none = tool_pb2.ToolChoice(mode=tool_pb2.ToolChoice.MODE_NONE)
    told = await ask(client, [question, choice.message, *outputs], tools=[WEATHER], tool_choice=none)
    assert message_text(told.choices[0].message).strip()
    assert not told.choices[0].message.tool_calls


async def test_effort_is_counted_and_shown_only_when_asked(client: Client) -> None:
    fields: dict[str, Any] = {"effort": common_pb2.EFFORT_LOW, "max_output_tokens": 400}
    quiet = await ask(client, **fields)
    told = await ask(client, include_reasoning=True, **fields)
    assert quiet.usage.reasoning_output_tokens > 0
    assert [part.WhichOneof("part") for part in quiet.choices[0].message.content] == ["text"]
    assert [part.WhichOneof("part") for part in told.choices[0].message.content] == ["reasoning", "text"]
    assert message_text(quiet.choices[0].message) == message_text(told.choices[0].message)
    followed = await ask(client, [*SEA, told.choices[0].message, assistant("Indeed."), user("And the sky?")])
    assert message_text(followed.choices[0].message).strip()


async def test_a_majority_is_told_with_its_votes(client: Client) -> None:
    messages = [user("Paris or Rome? How many nights? Answer in JSON.")]
    [choice] = (
        await ask(
            client,
            messages,
            consensus=5,
            response_format=ORDER,
            max_output_tokens=64,
            generation_params=common_pb2.GenerationParams(seed=1),
        )
    ).choices
    assert sum(vote.count for vote in choice.votes) == 5
    assert json.loads(choice.votes[0].answer) == json.loads(message_text(choice.message))


async def test_a_stream_whose_worker_dies_ends_unavailable_and_the_next_is_answered(
    server: ServerProcess, client: Client
) -> None:
    stream = client.stream_chat_completion(
        model=DEFAULT_MODEL, messages=[user("Count from one to one thousand in words.")]
    )
    killed = False
    with pytest.raises(Unavailable, match="The engine is not available"):
        async for chunk in stream:
            if chunk_text(chunk) and not killed:
                server.worker().kill()
                killed = True
    assert message_text(stream.completion.choices[0].message)
    assert message_text((await ask(client)).choices[0].message).strip()
