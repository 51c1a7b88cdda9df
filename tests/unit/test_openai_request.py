"""The body that each flavour of server gets."""

import json
from typing import Any

import pytest

from runtime.engines.openai_flavour import Flavour
from runtime.engines.openai_request import request_body
from runtime.types import (
    ChatMessage,
    ChatRole,
    Effort,
    FunctionTool,
    GenerateRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedToolChoice,
    Sampling,
    ToolCall,
    ToolChoiceMode,
)

USER = ChatMessage(role=ChatRole.USER, content="Hello")
SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
PERSON = JsonSchemaFormat(name="person", schema_json=json.dumps(SCHEMA), description="One.", strict=True)
A = FunctionTool(name="a", description="Does a.", parameters_json=json.dumps(SCHEMA), strict=True)
B = FunctionTool(name="b")
OTHERS = [flavour for flavour in Flavour if flavour is not Flavour.OPENAI]


def body(request: GenerateRequest, flavour: Flavour, limit: int | None = None) -> dict[str, Any]:
    return request_body(
        request,
        flavour=flavour,
        model_id="m",
        context_tokens=8192,
        max_output_tokens=limit,
        seed=request.sampling.seed,
    )


def ask(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"messages": (USER,)} | fields)


@pytest.mark.parametrize("flavour", Flavour)
def test_a_plain_request_says_little(flavour: Flavour) -> None:
    written = body(ask(), flavour)
    extras = {"return_progress", "reasoning_format"} if flavour is Flavour.LLAMA_SERVER else set()
    assert written.keys() == {"model", "messages", "stream", "stream_options"} | extras
    assert written["messages"] == [{"role": "user", "content": "Hello"}]
    json.dumps(written)


def test_sampling_is_passed_on() -> None:
    sampling = Sampling(temperature=0, top_p=1, seed=3, presence_penalty=-1, frequency_penalty=0.5)
    written = body(ask(sampling=sampling, stop=("END",), top_logprobs=2), Flavour.VLLM, limit=7)
    assert (
        written
        | {
            "temperature": 0,
            "top_p": 1,
            "seed": 3,
            "presence_penalty": -1,
            "frequency_penalty": 0.5,
            "stop": ["END"],
            "max_tokens": 7,
            "logprobs": True,
            "top_logprobs": 2,
        }
        == written
    )
    assert "top_p" not in body(ask(sampling=sampling), Flavour.TGI)
    assert body(ask(), Flavour.OPENAI, limit=7)["max_completion_tokens"] == 7


SPOKEN = (
    ChatMessage(role=ChatRole.SYSTEM, content="One."),
    ChatMessage(role=ChatRole.DEVELOPER, content="Two."),
    USER,
    ChatMessage(
        role=ChatRole.ASSISTANT,
        reasoning="hm",
        tool_calls=(ToolCall(id="c1", name="a", arguments_json='{"z": "1"}'),),
    ),
    ChatMessage(role=ChatRole.TOOL, tool_call_id="c1", content="42"),
    ChatMessage(role=ChatRole.DEVELOPER, content="Three."),
    ChatMessage(role=ChatRole.ASSISTANT, content="It is 42."),
    USER,
)


def test_openai_gets_the_roles_as_they_are() -> None:
    messages = body(ask(messages=SPOKEN), Flavour.OPENAI)["messages"]
    assert [message["role"] for message in messages] == [message.role.value for message in SPOKEN]


@pytest.mark.parametrize("flavour", OTHERS)
def test_templates_get_one_system_message(flavour: Flavour) -> None:
    messages = body(ask(messages=SPOKEN), flavour)["messages"]
    assert messages[0] == {"role": "system", "content": "One.\n\nTwo.\n\nThree."}
    assert [message["role"] for message in messages[1:]] == ["user", "assistant", "tool", "assistant", "user"]
    call, output = messages[2], messages[3]
    assert "content" not in call
    assert call["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "a", "arguments": '{"z": "1"}'}}
    ]
    assert output == {"role": "tool", "tool_call_id": "c1", "content": "42"}
    thoughts = {
        Flavour.VLLM: {"reasoning", "reasoning_content"},
        Flavour.SGLANG: {"reasoning_content"},
        Flavour.LLAMA_SERVER: {"reasoning_content"},
        Flavour.OLLAMA: {"reasoning"},
    }
    assert call.keys() & {"reasoning", "reasoning_content"} == thoughts.get(flavour, set())


@pytest.mark.parametrize("flavour", Flavour)
def test_tools_are_told(flavour: Flavour) -> None:
    written = body(ask(tools=(A, B), parallel_tool_calls=False), flavour)
    assert [tool["function"]["name"] for tool in written["tools"]] == ["a", "b"]
    function = written["tools"][0]["function"]
    assert function == {"name": "a", "description": "Does a.", "parameters": SCHEMA, "strict": True}
    assert list(function["parameters"]["properties"]) == ["z", "a"]
    assert written["tools"][1]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert (written["tool_choice"], written["parallel_tool_calls"]) == ("auto", False)
    assert body(ask(tools=(A,), tool_choice=ToolChoiceMode.REQUIRED), flavour)["tool_choice"] == "required"
    assert "tools" not in body(ask(tools=(A,), tool_choice=ToolChoiceMode.NONE), flavour)


@pytest.mark.parametrize("flavour", Flavour)
def test_a_named_tool(flavour: Flavour) -> None:
    written = body(ask(tools=(A, B), tool_choice=NamedToolChoice(name="b")), flavour)
    names = [tool["function"]["name"] for tool in written["tools"]]
    if flavour in {Flavour.LLAMA_SERVER, Flavour.OLLAMA}:
        assert (names, written["tool_choice"]) == (["b"], "required")
    else:
        assert names == ["a", "b"]
        assert written["tool_choice"] == {"type": "function", "function": {"name": "b"}}


@pytest.mark.parametrize("flavour", Flavour)
def test_the_form_of_the_answer(flavour: Flavour) -> None:
    written = body(ask(response_format=PERSON, stop=("END",)), flavour)
    object_written = body(ask(response_format=JsonObjectFormat()), flavour)["response_format"]
    assert "stop" not in written, "a document ends where its schema says"
    if flavour is Flavour.TGI:
        assert written["response_format"] == {"type": "json", "value": SCHEMA}
        assert object_written == {"type": "json", "value": {"type": "object"}}
    else:
        schema = {"name": "person", "description": "One.", "schema": SCHEMA, "strict": True}
        assert written["response_format"] == {"type": "json_schema", "json_schema": schema}
        assert object_written == {"type": "json_object"}


def test_beside_tools_the_form_is_asked_for_in_words() -> None:
    request = ask(tools=(A,), response_format=PERSON)
    assert "response_format" in body(request, Flavour.OPENAI)
    for flavour in OTHERS:
        written = body(request, flavour)
        assert "response_format" not in written
        assert PERSON.schema_json in written["messages"][0]["content"]
    required = ask(tools=(A,), response_format=PERSON, tool_choice=ToolChoiceMode.REQUIRED)
    assert len(body(required, Flavour.VLLM)["messages"]) == 1, "no answer, no form"


@pytest.mark.parametrize("effort", Effort)
def test_effort(effort: Effort) -> None:
    request = ask(effort=effort)
    thinks = effort is not Effort.NONE
    assert body(request, Flavour.OPENAI)["reasoning_effort"] == effort.value
    for flavour in (Flavour.VLLM, Flavour.SGLANG):
        written = body(request, flavour)
        assert written["reasoning_effort"] == effort.value
        assert written["chat_template_kwargs"]["enable_thinking"] is thinks
    llama = body(request, Flavour.LLAMA_SERVER)
    assert llama["chat_template_kwargs"]["enable_thinking"] is thinks
    assert (llama["reasoning_budget_tokens"] > 0) is thinks
    assert body(request, Flavour.OLLAMA)["reasoning_effort"] in {"none", "low", "medium", "high", "max"}
    assert body(request, Flavour.TGI).keys() == body(ask(), Flavour.TGI).keys()
