"""Asks without an assistant or a thread: whole, in pieces, as JSON, and with a function of our own.

Start a server with `assistants serve`, then:

    python examples/07_chat_completions.py [ADDRESS] [--model MODEL]
"""

import argparse
import asyncio
import json
from typing import Any

from assistants.client import DEFAULT_TARGET, Client, Model
from assistants.client_chat import chunk_text, message_text, system, tool_output, user
from assistants.v1.common_pb2 import JsonSchema, ResponseFormat
from assistants.v1.tool_pb2 import FunctionTool, Tool, ToolChoice

CITY = {"type": "string", "enum": ["Paris", "Rome", "Oslo"]}
NIGHTS = {"type": "integer", "minimum": 1, "maximum": 30}


def closed(**properties: object) -> str:
    """The schema of an object with exactly these properties."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return json.dumps(schema | {"additionalProperties": False})


def get_weather(city: str) -> str:
    """The function that the model may call."""
    return json.dumps({"city": city, "sky": "clear", "celsius": 21})


async def main(address: str, model: str | None) -> None:
    """Makes four kinds of request."""
    async with Client(address) as client:
        asked: dict[str, Any] = {"model": model or await first_loaded_model(client), "max_output_tokens": 128}
        messages = [system("Answer in one short sentence."), user("What is the capital of France?")]
        whole = await client.create_chat_completion(messages=messages, **asked)
        print("whole:", message_text(whole.choices[0].message))
        print("in pieces: ", end="")
        stream = client.stream_chat_completion(messages=[user("Tell me about lighthouses.")], **asked)
        async for chunk in stream:
            print(chunk_text(chunk), end="", flush=True)
        print(f" [{stream.completion.usage.output_tokens} tokens]")

        schema = JsonSchema(name="trip", schema_json=closed(city=CITY, nights=NIGHTS), strict=True)
        messages = [user("Book a hotel in Rome for three nights. Answer in JSON.")]
        form = ResponseFormat(json_schema=schema)
        trip = await client.create_chat_completion(messages=messages, response_format=form, **asked)
        print("as JSON:", json.loads(message_text(trip.choices[0].message)))

        weather = FunctionTool(name="get_weather", parameters_json=closed(city=CITY), strict=True)
        messages = [user("What is the weather in Paris?")]
        tools, required = [Tool(function=weather)], ToolChoice(mode=ToolChoice.MODE_REQUIRED)
        called = await client.create_chat_completion(
            messages=messages, tools=tools, tool_choice=required, parallel_tool_calls=False, **asked
        )
        message = called.choices[0].message
        messages.append(message)
        for call in message.tool_calls:
            output = get_weather(**json.loads(call.arguments_json))
            print(f"{call.name} {call.arguments_json} gave {output}")
            messages.append(tool_output(call.id, output))
        answer = await client.create_chat_completion(messages=messages, **asked)
        print("with the tool:", message_text(answer.choices[0].message))


async def first_loaded_model(client: Client) -> str:
    """The model that answers when none is named."""
    models = await client.list_models()
    return next(model.name for model in models if model.state == Model.STATE_LOADED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address", nargs="?", default=DEFAULT_TARGET)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.address, arguments.model))
