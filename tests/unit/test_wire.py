"""What crosses the wire to a worker comes out as it went in."""

from dataclasses import replace

import pytest

from runtime.engines import wire
from runtime.errors import EngineFault, PromptRejected
from runtime.events import (
    EngineEvent,
    PromptProgress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    TurnEnd,
)
from runtime.types import (
    ChatMessage,
    ChatRole,
    Effort,
    Embeddings,
    FinishReason,
    FunctionTool,
    GenerateRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    ModelInfo,
    NamedToolChoice,
    Priority,
    Sampling,
    Timings,
    ToolCall,
    ToolChoiceMode,
    Usage,
)
from runtime.v1 import reasoning_engine_pb2 as pb

PLAIN = GenerateRequest(messages=(ChatMessage(role=ChatRole.USER, content="Hi"),))
FULL = GenerateRequest(
    messages=(
        *(ChatMessage(role=role, content=f"I am {role}. 🎈") for role in ChatRole),
        ChatMessage(
            role=ChatRole.ASSISTANT,
            tool_calls=(ToolCall(id="call_1", name="f", arguments_json='{"a": 1}'),),
            reasoning="Hm.",
        ),
        ChatMessage(role=ChatRole.TOOL, content="1", tool_call_id="call_1"),
    ),
    tools=(
        FunctionTool(name="f", description="d", parameters_json="{}", strict=True),
        FunctionTool(name="g"),
    ),
    tool_choice=NamedToolChoice(name="f"),
    parallel_tool_calls=False,
    response_format=JsonSchemaFormat(name="s", schema_json="{}", description="d", strict=True),
    effort=Effort.HIGH,
    consensus=3,
    sampling=Sampling(temperature=0, top_p=0.5, seed=0, presence_penalty=-1, frequency_penalty=0),
    max_output_tokens=7,
    stop=("a", "b"),
    priority=Priority.BATCH,
)


@pytest.mark.parametrize(
    "request_",
    [
        PLAIN,
        FULL,
        *(replace(PLAIN, effort=effort) for effort in Effort),
        *(replace(PLAIN, tool_choice=mode) for mode in ToolChoiceMode),
        replace(PLAIN, response_format=JsonObjectFormat()),
    ],
)
def test_a_request_comes_out_as_it_went_in(request_: GenerateRequest) -> None:
    sent = wire.request_to_proto(request_).SerializeToString()
    assert wire.request_from_proto(pb.GenerateRequest.FromString(sent)) == request_


def test_what_is_not_set_is_the_default() -> None:
    message = pb.ChatMessage(role=pb.ROLE_USER, content="Hi")
    assert wire.request_from_proto(pb.GenerateRequest(messages=[message])) == PLAIN


@pytest.mark.parametrize(
    "event",
    [
        PromptProgress(1, 2),
        ReasoningDelta("r"),
        TextDelta("t"),
        TextDelta(""),
        ToolCallStart("call_1", "f"),
        ToolCallDelta("{"),
        ToolCallEnd(),
        *(TurnEnd(reason, Usage(), Timings()) for reason in FinishReason),
        TurnEnd(
            FinishReason.STOP,
            Usage(input_tokens=4, output_tokens=3, cached_input_tokens=2, reasoning_output_tokens=1),
            Timings(queue_s=0.1, prepare_s=0.2, prompt_s=0.3, generate_s=0.4),
        ),
    ],
)
def test_an_event_comes_out_as_it_went_in(event: EngineEvent) -> None:
    sent = wire.event_to_proto(event).SerializeToString()
    assert wire.event_from_proto(pb.GenerateEvent.FromString(sent)) == event


def test_an_event_of_a_newer_worker_is_passed_over() -> None:
    assert wire.event_from_proto(pb.GenerateEvent()) is None


def test_an_end_without_a_reason_is_a_fault() -> None:
    with pytest.raises(EngineFault):
        wire.event_from_proto(pb.GenerateEvent(end=pb.End()))


def test_a_model_comes_out_as_it_went_in() -> None:
    model = ModelInfo(
        name="m", provider="p", context_tokens=3, slots=2, native_reasoning=True, embeddings=True
    )
    assert wire.model_from_proto(wire.model_to_proto(model)) == model


def test_embeddings_come_out_as_they_went_in() -> None:
    embeddings = Embeddings(vectors=((0.5, -1.0), (0.0, 2.0)), input_tokens=9)
    assert wire.embeddings_from_proto(wire.embeddings_to_proto(embeddings)) == embeddings


def test_lone_surrogates_become_question_marks() -> None:
    message = ChatMessage(role=ChatRole.USER, content="a\ud83db 🎈")
    assert wire.message_from_proto(wire.message_to_proto(message)).content == "a?b 🎈"


@pytest.mark.parametrize(
    "request_",
    [
        pb.GenerateRequest(),
        pb.GenerateRequest(messages=[pb.ChatMessage(content="no role")]),
        pb.GenerateRequest(messages=[pb.ChatMessage(role=pb.ROLE_USER)], max_output_tokens=0),
        pb.GenerateRequest(messages=[pb.ChatMessage(role=pb.ROLE_USER)], consensus=-1),
        pb.GenerateRequest(messages=[pb.ChatMessage(role=pb.ROLE_USER)], stop=[""]),
        pb.GenerateRequest(messages=[pb.ChatMessage(role=pb.ROLE_USER)], stop=list("abcde")),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(request_: pb.GenerateRequest) -> None:
    with pytest.raises(PromptRejected):
        wire.request_from_proto(request_)
