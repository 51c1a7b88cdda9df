"""What a server can do wrong, and what it is: over real HTTP, with answers that were written down."""

import asyncio
import json
import logging
from typing import Any

import pytest

from runtime.engines.openai_flavour import Flavour
from runtime.engines.openai_http import OpenAIHttpEngine
from runtime.errors import (
    ContextExceeded,
    EngineError,
    EngineFault,
    EngineOverloaded,
    EngineUnavailable,
    PromptRejected,
)
from runtime.events import (
    TextDelta,
)
from runtime.types import (
    ChatMessage,
    ChatRole,
    GenerateRequest,
)
from tests.scripted_http import (
    HELLO,
    VLLM_MODEL,
    Json,
    Play,
    ScriptedServer,
    answer,
    delta,
    events_of,
    scripted_server,
)

MESSAGES = HELLO.messages


# What goes wrong.


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (429, "{}", EngineOverloaded),
        (503, '{"error": {"message": "busy"}}', EngineOverloaded),
        (503, '{"error": {"message": "Loading model", "type": "unavailable_error"}}', EngineUnavailable),
        (500, "oops", EngineUnavailable),
        (502, "<html>", EngineUnavailable),
        (424, '{"error": "Request failed during generation", "error_type": "generation"}', EngineUnavailable),
        (401, '{"detail": "Unauthorized"}', EngineFault),
        (404, '{"object": "error", "message": "no such model"}', EngineFault),
        (400, '{"error": {"message": "top_p must be in (0, 1]"}}', PromptRejected),
        (
            422,
            '{"error": "Input validation error: `temperature`", "error_type": "validation"}',
            PromptRejected,
        ),
    ],
)
async def test_a_status_is_an_error(
    openai_server: ScriptedServer,
    openai_engine: OpenAIHttpEngine,
    status: int,
    body: str,
    error: type[EngineError],
) -> None:
    openai_server.plays.append(Play(status=status, body=body))
    with pytest.raises(EngineError) as raised:
        await events_of(openai_engine)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (
            "This model's maximum context length is 4096 tokens."
            " However, your messages resulted in 5000 tokens.",
            {},
        ),
        (
            "This model's maximum context length is 4096 tokens. However, you requested 5100 tokens"
            " (5000 in the messages, 100 in the completion).",
            {},
        ),
        (
            "This model's maximum context length is 4096 tokens."
            " However, your request has 5000 input tokens.",
            {},
        ),
        ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", {}),
        ("Input validation error: `inputs` must have less than 4096 tokens. Given: 5000", {}),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096."
            " Given: 5000 `inputs` tokens and 20 `max_new_tokens`",
            {},
        ),
        ("request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", {}),
        ("too long", {"type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096}),
    ],
)
async def test_a_prompt_that_is_too_long(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine, message: str, fields: Json
) -> None:
    openai_server.plays.append(Play(status=400, body=json.dumps({"error": {"message": message, **fields}})))
    with pytest.raises(ContextExceeded) as raised:
        await events_of(openai_engine)
    assert (raised.value.prompt_tokens, raised.value.context_tokens) == (5000, 4096)


async def test_a_limit_beyond_the_context_means_what_fits(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    refusal = (
        "'max_tokens' is too large: 5000. This model's maximum context length is 4096 tokens"
        " and your request has 96 input tokens (5000 > 4096 - 96)."
    )
    openai_server.plays += (
        Play(status=400, body=json.dumps({"error": {"message": refusal}})),
        answer(delta(content="Hi")),
    )
    await events_of(openai_engine, GenerateRequest(messages=MESSAGES, max_output_tokens=5000))
    assert [body["max_tokens"] for body in openai_server.bodies] == [5000, 4000]


@pytest.mark.parametrize(
    ("play", "error", "reason"),
    [
        pytest.param(
            Play(chunks=[delta(content="Hi")], drops=True), EngineUnavailable, "not answer", id="dropped"
        ),
        pytest.param(
            Play(chunks=[delta(content="Hi")]), EngineUnavailable, "broke off", id="no finish reason"
        ),
        pytest.param(Play(chunks=[delta(content="Hi")], end=""), EngineUnavailable, "broke off", id="no end"),
        pytest.param(Play(chunks=[delta("abort")]), EngineUnavailable, "gave the answer up", id="aborted"),
        pytest.param(Play(chunks=[delta("stop")]), EngineFault, "include_usage", id="no usage"),
        pytest.param(
            Play(chunks=[delta("content_filter")]), EngineFault, "'content_filter'", id="other reason"
        ),
        pytest.param(Play(chunks=["{"]), EngineFault, "no chunk", id="no JSON"),
        pytest.param(Play(chunks=[{"choices": 1}]), EngineFault, "at choices", id="no choices"),
        pytest.param(Play(body="{}"), EngineFault, "application/json in place of a stream", id="no stream"),
        pytest.param(
            Play(chunks=[{"error": {"message": "out of memory", "code": 500}}]),
            EngineUnavailable,
            "out of memory",
            id="error in the stream",
        ),
        pytest.param(
            Play(chunks=[{"error": {"message": "bad grammar", "code": 400}}]),
            PromptRejected,
            "bad grammar",
            id="refused",
        ),
    ],
)
async def test_a_stream_that_does_not_end_well(
    openai_server: ScriptedServer,
    openai_engine: OpenAIHttpEngine,
    play: Play,
    error: type[EngineError],
    reason: str,
) -> None:
    openai_server.plays.append(play)
    with pytest.raises(EngineError, match=reason) as raised:
        await events_of(openai_engine)
    assert type(raised.value) is error


async def test_what_came_before_a_drop_was_given(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(Play(chunks=[delta(content="Hi")], drops=True))
    events = openai_engine.generate(HELLO)
    assert await anext(events) == TextDelta("Hi")
    with pytest.raises(EngineUnavailable):
        await anext(events)


async def test_a_server_that_failed_is_asked_for_its_health(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.pages["/health"] = 503
    openai_server.plays += (Play(status=500), answer(delta(content="Hi")))
    with pytest.raises(EngineUnavailable):
        await events_of(openai_engine)
    assert not openai_engine.ready
    with pytest.raises(EngineUnavailable, match="does not answer"):
        await openai_engine.wait_ready(0.05)
    openai_server.pages["/health"] = {}
    await openai_engine.wait_ready(10)
    assert (await events_of(openai_engine))[0] == TextDelta("Hi")


async def test_nobody_there() -> None:
    with pytest.raises(EngineUnavailable, match=r"http://127\.0\.0\.1:9/v1 does not answer"):
        await OpenAIHttpEngine.connect("http://127.0.0.1:9/v1")
    with pytest.raises(EngineUnavailable):
        await OpenAIHttpEngine.connect("host:8000")


async def test_leaving_a_stream_hangs_up(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(Play(chunks=[delta(content="Hi"), asyncio.Event()]))
    events = openai_engine.generate(HELLO)
    await anext(events)
    await events.aclose()
    async with asyncio.timeout(10):
        await openai_server.left.wait()
    assert openai_engine.ready


async def test_cancelling_the_reader_hangs_up(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(Play(chunks=[asyncio.Event()]))
    reading = asyncio.create_task(events_of(openai_engine))
    async with asyncio.timeout(10):
        await openai_server.waits.wait()
        reading.cancel()
        await openai_server.left.wait()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_closing_the_engine_ends_its_streams(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    openai_server.plays.append(Play(chunks=[delta(content="Hi"), asyncio.Event()]))
    events = openai_engine.generate(HELLO)
    await anext(events)
    rest = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    await openai_engine.aclose()
    async with asyncio.timeout(10):
        with pytest.raises(EngineUnavailable):
            await rest
    with pytest.raises(EngineUnavailable, match="closed"):
        await events_of(openai_engine)
    assert not openai_engine.ready


# What a server is.


@pytest.mark.parametrize(
    ("model", "pages", "flavour", "context_tokens", "slots"),
    [
        (VLLM_MODEL, {}, Flavour.VLLM, 4096, 16),
        ({"id": "m", "owned_by": "sglang", "max_model_len": 512}, {}, Flavour.SGLANG, 512, 16),
        (
            {"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 1024}},
            {"props": {"total_slots": 3, "chat_template": "<think>"}},
            Flavour.LLAMA_SERVER,
            1024,
            3,
        ),
        (
            {"id": "m", "owned_by": "library"},
            {
                "api__version": {"version": "0.20"},
                "api__generate": {"done": True},
                "api__ps": {"models": [{"name": "m", "context_length": 2048}]},
                "api__show": {"capabilities": ["completion", "thinking"]},
            },
            Flavour.OLLAMA,
            2048,
            16,
        ),
        (
            {"id": "m", "owned_by": "acme"},
            {"info": {"max_total_tokens": 777, "max_concurrent_requests": 128}},
            Flavour.TGI,
            777,
            128,
        ),
    ],
    ids=lambda value: value.value if isinstance(value, Flavour) else "",
)
async def test_what_a_server_is(
    model: Json, pages: dict[str, Any], flavour: Flavour, context_tokens: int, slots: int
) -> None:
    async with scripted_server(model, **pages) as server:
        engine = await OpenAIHttpEngine.connect(server.url)
        assert engine.model.provider == flavour.value
        assert engine.model.context_tokens == context_tokens
        assert engine.model.slots == slots
        assert engine.model.native_reasoning is (flavour in {Flavour.LLAMA_SERVER, Flavour.OLLAMA})
        assert not engine.model.embeddings
        await engine.aclose()


async def test_what_a_server_does_not_tell_is_configured() -> None:
    async with scripted_server({"id": "gpt"}) as server:
        with pytest.raises(EngineFault, match="context of gpt: configure context_tokens"):
            await OpenAIHttpEngine.connect(server.url)
        engine = await OpenAIHttpEngine.connect(server.url, context_tokens=100, slots=2)
        assert (engine.model.provider, engine.model.context_tokens, engine.model.slots) == ("openai", 100, 2)
        assert await engine.count_tokens([ChatMessage(role=ChatRole.USER, content="Grüße")]) == [7 + 16]
        await engine.aclose()


async def test_a_model_that_the_server_has_not() -> None:
    async with scripted_server() as server:
        with pytest.raises(EngineFault, match=r"no model 'other'\. It has: acme/Model-8B"):
            await OpenAIHttpEngine.connect(server.url, model="other")
        server.pages["/v1/models"] = {"data": [VLLM_MODEL, {"id": "b"}]}
        with pytest.raises(EngineFault, match="name one of: acme/Model-8B, b"):
            await OpenAIHttpEngine.connect(server.url)
        await (await OpenAIHttpEngine.connect(server.url, model="acme/Model-8B")).aclose()


async def test_the_key_is_sent_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted_server() as server:
        engine = await OpenAIHttpEngine.connect(server.url, api_key="sk-secret")
        server.plays.append(Play(status=401, body='{"detail": "no"}'))
        with pytest.raises(EngineFault) as raised:
            await events_of(engine)
        assert {headers.get("authorization") for _, headers, _ in server.asked} == {"Bearer sk-secret"}
        assert "sk-secret" not in caplog.text + repr(raised.value) + repr(engine) + repr(vars(engine))
        await engine.aclose()


async def test_tokens_are_counted_by_the_server(
    openai_server: ScriptedServer, openai_engine: OpenAIHttpEngine
) -> None:
    assert await openai_engine.count_tokens(MESSAGES * 2) == [19, 19]
    assert openai_server.asked[-1][2]["prompt"] == "Hello"


async def test_texts_are_embedded() -> None:
    vectors = {
        "data": [{"index": 1, "embedding": [3, 4.5]}, {"index": 0, "embedding": [1.0, 2.0]}],
        "usage": {"prompt_tokens": 5},
    }
    async with scripted_server(v1__embeddings=vectors) as server:
        engine = await OpenAIHttpEngine.connect(server.url)
        assert engine.model.embeddings
        embeddings = await engine.embed(["a", "b"])
        assert embeddings.vectors == ((1.0, 2.0), (3.0, 4.5))
        assert embeddings.input_tokens == 5
        server.pages["/v1/embeddings"] = {"data": [{}]}
        with pytest.raises(EngineFault, match="cannot be read"):
            await engine.embed(["a"])
        await engine.aclose()
    async with scripted_server() as server:
        engine = await OpenAIHttpEngine.connect(server.url)
        with pytest.raises(EngineFault, match="gives no embeddings"):
            await engine.embed(["a"])
        await engine.aclose()
