"""Lets the model call a function of this program, and answer with what it returned.

The run pauses until the outputs of its calls are there; its stream goes on after them.
Start a server with `assistants serve`, then:

    python examples/04_function_tools.py [ADDRESS] [--model MODEL]
"""

import argparse
import asyncio
import json

from assistants.client import DEFAULT_TARGET, Client, Model, Run, ToolChoice, calls_of, function_tool, text_of

GET_WEATHER = function_tool(
    "get_weather",
    "Tells the weather of a city.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Paris", "Oslo", "Rome"]},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    strict=True,
)


def get_weather(city: str, unit: str) -> str:
    """What a real program would ask a weather service for."""
    return json.dumps({"city": city, "temperature": 21 if unit == "celsius" else 70, "sky": "clear"})


async def main(address: str, model: str | None) -> None:
    """Asks a question that needs the function, and carries out what the model calls."""
    async with Client(address) as client:
        assistant = await client.create_assistant(
            model=model or await first_loaded_model(client),
            instructions="Answer questions about the weather in one short sentence.",
            tools=[GET_WEATHER],
        )
        thread = await client.create_thread()
        await client.create_message(thread.name, "What is the weather in Oslo, in celsius?")

        # The first turn has to call; a small model would rather guess.
        choice = ToolChoice(mode=ToolChoice.MODE_REQUIRED)
        stream = client.stream(
            thread.name, assistant.name, tool_choice=choice, parallel_tool_calls=False, max_output_tokens=96
        )
        async for event in stream:
            print(text_of(event), end="", flush=True)
            outputs = {}
            for call in calls_of(event):
                outputs[call.id] = get_weather(**json.loads(call.arguments_json))
                print(f"{call.name} {call.arguments_json} gave {outputs[call.id]}")
            if outputs:
                await client.submit_tool_outputs(stream.run.name, outputs)
        print(f"\n{stream.run.name}: {Run.State.Name(stream.run.state)}")


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
