"""Streams an answer to the terminal as it is written, then prints what it cost.

Start a server with `assistants serve`, then:

    python examples/02_stream.py [ADDRESS] [--model MODEL]
"""

import argparse
import asyncio

from assistants.client import DEFAULT_TARGET, Client, Model, text_of


async def main(address: str, model: str | None) -> None:
    """Creates a run and prints each piece of its answer when it comes."""
    async with Client(address) as client:
        assistant = await client.create_assistant(model=model or await first_loaded_model(client))
        thread = await client.create_thread()
        await client.create_message(thread.name, "Tell me a short story about a lighthouse.")

        stream = client.stream(thread.name, assistant.name, max_output_tokens=128)
        async for event in stream:
            print(text_of(event), end="", flush=True)
        print()

        usage = stream.run.usage
        print(f"usage: {usage.input_tokens} input tokens, {usage.output_tokens} output tokens")


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
