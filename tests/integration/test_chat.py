"""Chat completions over the wire: answers, pieces, and what becomes of them when somebody goes away."""

import asyncio
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from assistants.client import Client, Run
from assistants.client_chat import (
    ChatMessage,
    assistant,
    chunk_text,
    message_text,
    system,
    tool_output,
    user,
)
from assistants.config import ServerConfig
from assistants.domain.errors import DeadlineExceeded
from assistants.server.app import Server
from assistants.v1 import chat_completion_service_pb2 as pb
from assistants.v1 import common_pb2, tool_pb2
from runtime import types
from runtime.events import EngineEvent, LogprobsDelta, ReasoningDelta, TextDelta, TurnEnd
from runtime.testing import ScriptedEngine
from runtime.types import FinishReason, GenerateRequest, LikelyToken, TokenLogprob, Usage, Vote
from tests.chats import (
    CALLS,
    HELLO,
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

# Answers.


async def test_an_answer_is_whole(serve: Serve) -> None:
    engine = ScriptedEngine([PLAIN])
    async with serve(engine) as client:
        answer = await ask(client, [system("Be brief."), user("hello")])
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "models/scripted"
    assert answer.HasField("create_time")
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason) == (0, pb.FINISH_REASON_STOP)
    assert choice.message == assistant("Hello you")
    assert answer.usage == common_pb2.Usage(
        input_tokens=9, output_tokens=5, cached_input_tokens=4, reasoning_output_tokens=2
    )
    engine.assert_consumed()


async def test_what_is_asked_for_reaches_the_engine(serve: Serve) -> None:
    engine = ScriptedEngine([PLAIN], logprobs=True)
    async with serve(engine) as client:
        await client.create_chat_completion(
            model="models/scripted",
            messages=[system("Be brief."), user("hello")],
            tools=[LOOK],
            tool_choice=tool_pb2.ToolChoice(tool="look"),
            parallel_tool_calls=False,
            effort=common_pb2.EFFORT_LOW,
            generation_params=common_pb2.GenerationParams(
                temperature=0.5, top_p=0.9, seed=7, presence_penalty=-2, frequency_penalty=2
            ),
            max_output_tokens=100,
            stop=["END", "\n\n"],
            logprobs=True,
            top_logprobs=3,
        )
    [request] = engine.requests
    assert request == GenerateRequest(
        messages=(
            types.ChatMessage(role=types.ChatRole.SYSTEM, content="Be brief."),
            types.ChatMessage(role=types.ChatRole.USER, content="hello"),
        ),
        tools=(
            types.FunctionTool(
                name="look", description="Looks.", parameters_json=LOOK.function.parameters_json
            ),
        ),
        tool_choice=types.NamedToolChoice(name="look"),
        parallel_tool_calls=False,
        effort=types.Effort.LOW,
        sampling=types.Sampling(temperature=0.5, top_p=0.9, seed=7, presence_penalty=-2, frequency_penalty=2),
        max_output_tokens=100,
        stop=("END", "\n\n"),
        top_logprobs=3,
    )


async def test_a_schema_reaches_the_engine(serve: Serve) -> None:
    engine = ScriptedEngine([(TextDelta('{"a": 1}'), STOP)])
    async with serve(engine) as client:
        answer = await ask(client, response_format=SCHEMA, consensus=3)
    assert message_text(answer.choices[0].message) == '{"a": 1}'
    [request] = engine.requests
    assert request.consensus == 3
    assert request.response_format == types.JsonSchemaFormat(
        name="answer", schema_json=SCHEMA.json_schema.schema_json, strict=True
    )


async def test_an_alias_brings_its_effort(serve: Serve) -> None:
    engine = ScriptedEngine([PLAIN, PLAIN])
    async with serve(engine) as client:
        for effort in (common_pb2.EFFORT_UNSPECIFIED, common_pb2.EFFORT_MINIMAL):
            answer = await client.create_chat_completion(model="o3-mini-high", messages=HELLO, effort=effort)
            assert answer.model == "models/scripted"
    assert [request.effort for request in engine.requests] == [types.Effort.HIGH, types.Effort.MINIMAL]


@pytest.mark.parametrize("include_reasoning", [False, True])
async def test_the_pieces_of_a_stream_make_the_answer(serve: Serve, include_reasoning: bool) -> None:
    async with serve(ScriptedEngine([PLAIN, PLAIN])) as client:
        chunks, streamed = await chunks_of(client, include_reasoning=include_reasoning)
        whole = await ask(client, include_reasoning=include_reasoning)
    assert same_answer(streamed, whole)
    assert [chunk_text(chunk) for chunk in chunks if chunk_text(chunk)] == ["Hello ", "you"]
    assert len({(chunk.id, chunk.model, chunk.create_time.ToNanoseconds()) for chunk in chunks}) == 1
    assert [chunk.HasField("usage") for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert not chunks[-1].choices
    kinds = [part.WhichOneof("part") for part in whole.choices[0].message.content]
    assert kinds == (["reasoning", "text"] if include_reasoning else ["text"])
    if include_reasoning:
        assert whole.choices[0].message.content[0].reasoning.text == "hmm"


async def test_tool_calls_make_a_round_trip(serve: Serve) -> None:
    engine = ScriptedEngine([(ReasoningDelta("hm"), *CALLS), CALLS, PLAIN])
    async with serve(engine) as client:
        chunks, streamed = await chunks_of(client, tools=[LOOK], include_reasoning=True)
        whole = await ask(client, tools=[LOOK])
        [choice] = streamed.choices
        first, second = choice.message.tool_calls
        messages = [*HELLO, choice.message, tool_output(second.id, "wet"), tool_output(first.id, "")]
        await ask(client, messages, tools=[LOOK])
    assert choice.finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert [call.arguments_json for call in choice.message.tool_calls] == ['{"at": "sky"}', '{"at": "sea"}']
    assert first.id.startswith("call_")
    assert first.id != second.id
    pieces = [piece for chunk in chunks for delta in chunk.choices for piece in delta.tool_calls]
    assert [(piece.index, bool(piece.id), piece.name) for piece in pieces] == [
        (0, True, "look"),
        (0, False, ""),
        (0, False, ""),
        (1, True, "look"),
        (1, False, ""),
    ]
    assert [call.name for call in whole.choices[0].message.tool_calls] == ["look", "look"]
    assert not whole.choices[0].message.content
    assert engine.requests[2].messages[1:] == (
        types.ChatMessage(
            role=types.ChatRole.ASSISTANT,
            reasoning="hm",
            tool_calls=(
                types.ToolCall(id=first.id, name="look", arguments_json='{"at": "sky"}'),
                types.ToolCall(id=second.id, name="look", arguments_json='{"at": "sea"}'),
            ),
        ),
        types.ChatMessage(role=types.ChatRole.TOOL, content="wet", tool_call_id=second.id),
        types.ChatMessage(role=types.ChatRole.TOOL, tool_call_id=first.id),
    )


async def test_choices_have_seeds_of_their_own_and_share_the_prompt(serve: Serve) -> None:
    def turn(number: int) -> tuple[EngineEvent, ...]:
        usage = Usage(input_tokens=9, output_tokens=number + 1, cached_input_tokens=number)
        return (TextDelta(f"answer {number}"), TurnEnd(FinishReason.STOP, usage))

    engine = ScriptedEngine([turn(0), turn(1), turn(2)] * 2)
    seed = common_pb2.GenerationParams(seed=2**32 - 3)
    async with serve(engine) as client:
        whole = await ask(client, n=3, generation_params=seed)
        _, streamed = await chunks_of(client, n=3, generation_params=seed)
    assert same_answer(streamed, whole)
    assert [(choice.index, message_text(choice.message)) for choice in whole.choices] == [
        (0, "answer 0"),
        (1, "answer 1"),
        (2, "answer 2"),
    ]
    assert whole.usage == common_pb2.Usage(input_tokens=9, output_tokens=6)
    assert [request.sampling.seed for request in engine.requests[:3]] == [2**32 - 3, 2**32 - 2, 0]


async def test_choices_are_generated_at_the_same_time(serve: Serve) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine([(gate, TextDelta("late"), STOP), (TextDelta("early"), STOP)])
    async with serve(engine) as client:
        order = []
        async for chunk in client.stream_chat_completion(model="scripted", messages=HELLO, n=2):
            order += [delta.index for delta in chunk.choices]
            gate.set()
    assert order == [1, 1, 0, 0]


async def test_logprobs_are_told_on_request(serve: Serve) -> None:
    logprob = TokenLogprob(
        token="Hi",
        logprob=-0.5,
        token_bytes=b"Hi",
        top=(LikelyToken(token="Hi", logprob=-0.5, token_bytes=b"Hi"),),
    )
    turn = (TextDelta("Hi"), LogprobsDelta((logprob,)), LogprobsDelta((logprob,)), STOP)
    engine = ScriptedEngine([turn, turn, PLAIN], logprobs=True)
    async with serve(engine) as client:
        whole = await ask(client, logprobs=True, top_logprobs=1)
        _, streamed = await chunks_of(client, logprobs=True)
        await ask(client)
        [model] = await client.list_models()
    assert same_answer(streamed, whole)
    expected = pb.TokenLogprob(
        token="Hi",
        logprob=-0.5,
        token_bytes=b"Hi",
        top=[pb.LikelyToken(token="Hi", logprob=-0.5, token_bytes=b"Hi")],
    )
    assert list(whole.choices[0].logprobs) == [expected, expected]
    assert [request.top_logprobs for request in engine.requests] == [1, 0, None]
    assert model.capabilities.logprobs


async def test_the_end_tells_of_votes_and_of_an_early_close(serve: Serve) -> None:
    votes = (Vote(answer="42", count=3), Vote(answer="41", count=1))
    turn = (TextDelta("42"), TurnEnd(FinishReason.STOP, USAGE, votes=votes, closed_early=True))
    async with serve(ScriptedEngine([turn, turn])) as client:
        whole = await ask(client, consensus=4)
        _, streamed = await chunks_of(client, consensus=4)
    assert same_answer(streamed, whole)
    [choice] = whole.choices
    assert [(vote.answer, vote.count) for vote in choice.votes] == [("42", 3), ("41", 1)]
    assert choice.closed_early


async def test_reasoning_that_uses_up_the_limit_leaves_an_empty_answer(serve: Serve) -> None:
    async with serve(ScriptedEngine([(ReasoningDelta("so"), TurnEnd(FinishReason.LENGTH, USAGE))])) as client:
        [choice] = (await ask(client, max_output_tokens=1)).choices
    assert choice.finish_reason == pb.FINISH_REASON_LENGTH
    assert choice.message == ChatMessage(role=ChatMessage.ROLE_ASSISTANT)


async def test_nothing_is_stored(serve: Serve, tmp_path: Path) -> None:
    async with serve() as client:
        await ask(client)
        await chunks_of(client)
    [path] = (tmp_path / "data").glob("*.db")
    database = sqlite3.connect(path)
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}
    database.close()
    rows.pop("alembic_version")
    assert "run" in " ".join(rows)
    assert set(rows.values()) == {0}


# Whoever goes away frees the slot.


async def test_a_client_that_cancels_frees_the_slot(serve: Serve) -> None:
    never = asyncio.Event()
    engine = WatchedEngine((TextDelta("a"), never), (TextDelta("a"), never), (TextDelta("a"), never))
    request = pb.CreateChatCompletionRequest(model="scripted", messages=HELLO)
    async with serve(engine) as client, asyncio.timeout(20):
        call = stub(client).CreateChatCompletion(request)
        await engine.started.wait()
        assert engine.generating == 1
        call.cancel()
        await engine.free.wait()

        stream = stub(client).StreamChatCompletion(request)
        await anext(aiter(stream))
        assert engine.generating == 1
        stream.cancel()
        await engine.free.wait()

        async for _ in client.stream_chat_completion(model="scripted", messages=HELLO):
            break  # and no more interest
        await engine.free.wait()


async def test_all_choices_are_freed(serve: Serve) -> None:
    never = asyncio.Event()
    engine = WatchedEngine(*[(TextDelta("a"), never)] * 3)
    async with serve(engine) as client, asyncio.timeout(20):
        request = pb.CreateChatCompletionRequest(model="scripted", messages=HELLO, n=3)
        stream = stub(client).StreamChatCompletion(request)
        chunks = aiter(stream)
        for _ in range(3):
            await anext(chunks)
        assert engine.generating == 3
        stream.cancel()
        await engine.free.wait()


async def test_a_deadline_frees_the_slot(serve: Serve) -> None:
    engine = WatchedEngine((TextDelta("a"), asyncio.Event()))
    async with serve(engine) as client, asyncio.timeout(20):
        with pytest.raises(DeadlineExceeded):
            await ask(client, timeout_s=0.5)
        await engine.free.wait()


async def test_runs_and_chat_completions_go_side_by_side(serve: Serve) -> None:
    async with serve() as client:
        assistant_, thread = await client.create_assistant(model="scripted"), await client.create_thread()
        await client.create_message(thread.name, "of the run")
        run, answers = await asyncio.gather(
            client.stream(thread.name, assistant_.name).result(),
            asyncio.gather(*(ask(client, [user(f"of chat {number}")]) for number in range(20))),
        )
    assert run.state == Run.STATE_COMPLETED
    assert [message_text(answer.choices[0].message) for answer in answers] == [
        f"of chat {number}" for number in range(20)
    ]


async def test_a_server_that_stops_lets_answers_end(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = WatchedEngine((TextDelta("a"), gate, STOP))
    config = ServerConfig(
        data_dir=tmp_path,
        models_dir=tmp_path,
        model="scripted",
        engine="scripted",
        grpc_address="127.0.0.1:0",
    )
    async with AsyncExitStack() as stopped, asyncio.timeout(20):
        server = await stopped.enter_async_context(Server(config, engine=engine))
        async with Client(server.address, patience_s=0) as client:
            health = health_pb2_grpc.HealthStub(client.channel).Watch(health_pb2.HealthCheckRequest())
            states = aiter(health)
            assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
            answering = asyncio.create_task(ask(client))
            await engine.started.wait()
            stopping = asyncio.create_task(stopped.aclose())
            assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            health.cancel()
            gate.set()
            assert message_text((await answering).choices[0].message) == "a"
            await stopping
