"""The engine on a real server of another project: llama.cpp's own, as a process, with the real model."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from runtime.engines.openai_http import OpenAIHttpEngine
from runtime.errors import ContextExceeded, EngineFault, EngineUnavailable, OutputInvalid
from runtime.events import EngineEvent, LogprobsDelta, PromptProgress, TextDelta, TurnEnd
from runtime.types import (
    ChatMessage,
    ChatRole,
    FinishReason,
    FunctionTool,
    GenerateRequest,
    JsonSchemaFormat,
    Sampling,
    ToolChoiceMode,
)

pytestmark = [pytest.mark.real_model, pytest.mark.asyncio(loop_scope="module")]

SERVER = textwrap.dedent(
    """
    import os, sys
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.verbosity = -1
    params.n_parallel, params.n_ctx, params.n_batch = 2, 1024, 256
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.fit_params = params.ui = False
    params.use_jinja = True
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)
    """
)
START_TIMEOUT_S = 60
PERSON = JsonSchemaFormat(
    name="person",
    schema_json=json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 12},
                "age": {"type": "integer", "minimum": 0, "maximum": 99},
            },
            "required": ["name", "age"],
            "additionalProperties": False,
        }
    ),
)


class LlamaServerProcess:
    """llama.cpp's server, listening."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    @classmethod
    async def start(cls, model_path: Path) -> "LlamaServerProcess":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SERVER,
            str(model_path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        server = cls(process, "")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                server.url = (await process.stdout.readline()).decode().strip() + "/v1"
        except BaseException:
            await server.stop()
            raise
        return server

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(model_path: Path) -> AsyncIterator[LlamaServerProcess]:
    started = await LlamaServerProcess.start(model_path)
    yield started
    await started.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(server: LlamaServerProcess) -> AsyncIterator[OpenAIHttpEngine]:
    connected = await OpenAIHttpEngine.connect(server.url)
    yield connected
    await connected.aclose()


def ask(text: str, **fields: object) -> GenerateRequest:
    message = ChatMessage(role=ChatRole.USER, content=text)
    return GenerateRequest(messages=(message,), **{"sampling": Sampling(temperature=0)} | fields)  # type: ignore[arg-type]  # fields of GenerateRequest


async def answer(
    engine: OpenAIHttpEngine, request: GenerateRequest
) -> tuple[str, TurnEnd, list[EngineEvent]]:
    events = [event async for event in engine.generate(request)]
    end = events[-1]
    assert isinstance(end, TurnEnd)
    return "".join(event.text for event in events if isinstance(event, TextDelta)), end, events


async def test_what_it_is(engine: OpenAIHttpEngine) -> None:
    assert engine.model.provider == "llama_server"
    assert engine.model.name == "model.gguf"
    assert engine.model.context_tokens == 512
    assert engine.model.slots == 2
    assert not engine.model.embeddings


async def test_a_turn_streams(engine: OpenAIHttpEngine) -> None:
    text, end, events = await answer(
        engine, ask("Tell me about the sea.", max_output_tokens=12, top_logprobs=2)
    )
    assert isinstance(events[0], PromptProgress)
    assert sum(isinstance(event, TextDelta) for event in events) > 3
    assert text
    assert end.finish_reason is FinishReason.LENGTH
    assert end.usage.output_tokens == 12
    assert end.usage.input_tokens > 10
    tokens = [token for event in events if isinstance(event, LogprobsDelta) for token in event.tokens]
    assert "".join(token.token for token in tokens) == text
    assert all(len(token.top) == 2 and token.logprob <= 0 for token in tokens)


async def test_the_prefix_is_cached(engine: OpenAIHttpEngine) -> None:
    request = ask("What is the capital of France? Answer in one word.", max_output_tokens=4)
    _, first, _ = await answer(engine, request)
    _, second, _ = await answer(engine, request)
    assert second.usage.input_tokens == first.usage.input_tokens
    assert second.usage.cached_input_tokens > second.usage.input_tokens // 2


async def test_a_document_satisfies_its_schema(engine: OpenAIHttpEngine) -> None:
    text, end, events = await answer(engine, ask("Describe a person.", response_format=PERSON))
    assert end.finish_reason is FinishReason.STOP
    assert set(json.loads(text)) == {"name", "age"}
    assert sum(isinstance(event, TextDelta) for event in events) == 1


async def test_a_demanded_call_that_it_does_not_make(engine: OpenAIHttpEngine) -> None:
    """The template of this model knows no tools, and the server then ignores the choice."""
    request = ask(
        "Call the tool.",
        tools=(FunctionTool(name="get_time"),),
        tool_choice=ToolChoiceMode.REQUIRED,
        sampling=Sampling(temperature=0, seed=1),
    )
    try:
        _, end, _ = await answer(engine, request)
    except OutputInvalid as error:
        assert "a tool has to be called" in str(error)
    else:
        assert end.finish_reason is FinishReason.LENGTH


async def test_the_majority_of_several(engine: OpenAIHttpEngine) -> None:
    request = ask(
        "Describe a person.", response_format=PERSON, consensus=3, sampling=Sampling(temperature=1, seed=5)
    )
    text, end, _ = await answer(engine, request)
    assert set(json.loads(text)) == {"name", "age"}
    assert 1 <= sum(vote.count for vote in end.votes) <= 3
    assert end.usage.output_tokens > 20


async def test_tokens_are_counted_and_never_too_few(engine: OpenAIHttpEngine) -> None:
    message = ChatMessage(role=ChatRole.USER, content="Tell me about the sea. " * 8)
    (counted,) = await engine.count_tokens([message])
    system = ChatMessage(role=ChatRole.SYSTEM, content="Be short.")
    both = sum(await engine.count_tokens([system, message]))
    request = GenerateRequest(messages=(system, message), max_output_tokens=1)
    _, end, _ = await answer(engine, request)
    assert counted < both
    assert end.usage.input_tokens <= both <= end.usage.input_tokens + 40


async def test_a_prompt_that_is_too_long(engine: OpenAIHttpEngine) -> None:
    with pytest.raises(ContextExceeded) as raised:
        await answer(engine, ask("word " * 1_000))
    assert raised.value.context_tokens == 512
    assert raised.value.prompt_tokens > 1_000


async def test_leaving_a_stream_frees_its_slot(engine: OpenAIHttpEngine) -> None:
    endless = "Count from one to one thousand in words."
    for _ in range(4):
        events = engine.generate(ask(endless))
        async for event in events:
            if isinstance(event, TextDelta):
                break
        await events.aclose()
    async with asyncio.timeout(30):
        await answer(engine, ask("Say hi.", max_output_tokens=2))


async def test_it_gives_no_embeddings(engine: OpenAIHttpEngine) -> None:
    with pytest.raises(EngineFault, match="gives no embeddings"):
        await engine.embed(["text"])


async def test_kill_9_in_the_middle_of_a_turn(model_path: Path) -> None:
    server = await LlamaServerProcess.start(model_path)
    engine = await OpenAIHttpEngine.connect(server.url)
    try:
        events = engine.generate(ask("Count from one to one thousand in words."))
        async for event in events:
            if isinstance(event, TextDelta):
                break
        os.kill(server.process.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailable):
            async for _ in events:
                pass
        assert not engine.ready
        with pytest.raises(EngineUnavailable):
            await answer(engine, ask("Say hi."))
        with pytest.raises(EngineUnavailable, match="does not answer"):
            await engine.wait_ready(0.1)
    finally:
        await engine.aclose()
        await server.stop()
