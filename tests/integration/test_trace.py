"""One trace tells the story of a run, over a real OTLP connection."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from assistants.client import Client, Run, ToolChoice, function_tool
from assistants.client_chat import user
from assistants.telemetry.receiver import OtlpReceiver, ReceivedSpan
from tests.serving import SCRIPTED, serving


def of_trace(spans: Sequence[ReceivedSpan], trace_id: str) -> dict[str, ReceivedSpan]:
    """The spans of a trace by the first word of their names."""
    return {span.name.split()[0]: span for span in spans if span.trace_id == trace_id}


def has_request(spans: Sequence[ReceivedSpan]) -> bool:
    """The request ends last, so all of its trace is there with it."""
    return any(span.name.endswith("CreateRunStream") for span in spans)


async def run_once(client: Client) -> Run:
    assistant = await client.create_assistant(model="scripted", display_name="Ada")
    thread = await client.create_thread()
    await client.create_message(thread.name, "a secret message")
    return await client.stream(thread.name, assistant.name).result()


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OtlpReceiver]:
    """Where servers that are started from now on send their spans."""
    async with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        yield receiver


async def test_the_spans_of_a_run_hang_together(tmp_path: Path, receiver: OtlpReceiver) -> None:
    async with serving(tmp_path, *SCRIPTED) as server:
        async with server.client() as client:
            run = await run_once(client)
        assert await server.terminate() == 0
    spans = await receiver.wait_for(has_request, timeout_s=10)
    story = of_trace(spans, run.trace_id)
    request = story["assistants.v1.RunService/CreateRunStream"]
    agent, chat = story["invoke_agent"], story["chat"]
    assert (agent.parent_span_id, chat.parent_span_id) == (request.span_id, agent.span_id)
    assert agent.name == "invoke_agent Ada"
    assert agent.attributes["assistants.run.name"] == run.name
    assert agent.attributes["assistants.run.state"] == "completed"
    assert agent.attributes["gen_ai.conversation.id"] == run.name.rsplit("/", 2)[0]
    assert chat.attributes["gen_ai.usage.output_tokens"] == 3
    assert "secret" not in repr(spans)


async def test_a_run_that_paused_is_one_trace_with_linked_attempts(
    tmp_path: Path, receiver: OtlpReceiver
) -> None:
    async with serving(tmp_path, *SCRIPTED) as server:
        async with server.client() as client:
            tools = [function_tool("look_up")]
            assistant = await client.create_assistant(model="scripted", display_name="Ada", tools=tools)
            thread = await client.create_thread()
            await client.create_message(thread.name, '{"key": "a secret"}')
            choice = ToolChoice(mode=ToolChoice.MODE_REQUIRED)
            stream = client.stream(thread.name, assistant.name, tool_choice=choice)
            while calls := await stream.next_calls():
                await client.submit_tool_outputs(stream.run.name, {call.id: "a secret" for call in calls})
            run = stream.run
        assert await server.terminate() == 0
    spans = await receiver.wait_for(
        lambda spans: sum(span.name == "invoke_agent Ada" for span in spans) == 2, timeout_s=10
    )
    first, second = sorted(
        (span for span in spans if span.name == "invoke_agent Ada"),
        key=lambda span: str(span.attributes["assistants.run.attempt"]),
    )
    assert {first.trace_id, second.trace_id} == {run.trace_id}
    assert first.attributes["assistants.run.state"] == "requires_action"
    assert first.attributes["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert second.attributes["assistants.run.state"] == "completed"
    assert [link.span_id for link in second.links] == [first.span_id]
    chats = [span for span in spans if span.name.startswith("chat")]
    assert sorted(span.parent_span_id for span in chats) == sorted([first.span_id, second.span_id])
    assert "secret" not in repr(spans)


async def test_the_callers_trace_goes_on_in_the_server(tmp_path: Path, receiver: OtlpReceiver) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    async with serving(tmp_path, *SCRIPTED) as server:
        async with server.client() as client:
            with tracer.start_as_current_span("the application") as span:
                run = await run_once(client)
        assert await server.terminate() == 0
    spans = await receiver.wait_for(has_request, timeout_s=10)
    context = span.get_span_context()
    assert run.trace_id == trace.format_trace_id(context.trace_id)
    request = of_trace(spans, run.trace_id)["assistants.v1.RunService/CreateRunStream"]
    assert request.parent_span_id == trace.format_span_id(context.span_id)


async def test_a_chat_completion_is_a_model_call_under_its_request(
    tmp_path: Path, receiver: OtlpReceiver
) -> None:
    async with serving(tmp_path, *SCRIPTED) as server:
        async with server.client() as client:
            await client.create_chat_completion(model="scripted", messages=[user("a secret message")])
            await client.stream_chat_completion(
                model="scripted", messages=[user("a secret message")]
            ).result()
        assert await server.terminate() == 0
    spans = await receiver.wait_for(lambda spans: len(spans) >= 4, timeout_s=10)
    for method in ("CreateChatCompletion", "StreamChatCompletion"):
        name = f"assistants.v1.ChatCompletionService/{method}"
        [request] = [span for span in spans if span.name == name]
        chat = of_trace(spans, request.trace_id)["chat"]
        assert chat.parent_span_id == request.span_id
        assert chat.attributes["gen_ai.usage.output_tokens"] == 3
    assert "secret" not in repr(spans)


@pytest.mark.real_model
@pytest.mark.usefixtures("model_path")
async def test_a_run_that_was_interrupted_is_one_trace_with_two_attempts(
    tmp_path: Path, receiver: OtlpReceiver
) -> None:
    async with serving(tmp_path) as server, server.client() as client:
        [model] = await client.list_models()
        assistant = await client.create_assistant(model=model.name.removeprefix("models/"))
        thread = await client.create_thread()
        await client.create_message(thread.name, "Tell me a long story.")
        run = await client.create_run(thread.name, assistant.name, max_output_tokens=100)
        async for event in client.watch(run.name):
            if event.HasField("message_delta"):
                break
        await server.killed()
        async with serving(tmp_path, address=server.address) as successor:
            ended = await client.watch(run.name).result()
            assert (ended.state, ended.attempt) == (Run.STATE_INCOMPLETE, 2)
            assert await successor.terminate() == 0
    spans = await receiver.wait_for(
        lambda spans: any(s.attributes.get("assistants.run.attempt") == 2 for s in spans), timeout_s=10
    )
    [second] = [s for s in spans if s.attributes.get("assistants.run.attempt") == 2]
    assert second.trace_id == run.trace_id
    assert [link.trace_id for link in second.links] == [run.trace_id]
