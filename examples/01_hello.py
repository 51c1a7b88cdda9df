"""Asks an assistant one question and prints its answer.

Start a server with `assistants serve`, then:

    python examples/01_hello.py [ADDRESS] [--model MODEL]
"""

import argparse
import asyncio

from assistants.client import DEFAULT_TARGET, Client, Model, Run


async def main(address: str, model: str | None) -> None:
    """Creates an assistant, a thread, a message and a run, and waits for its end."""
    async with Client(address) as client:
        assistant = await client.create_assistant(
            model=model or await first_loaded_model(client),
            instructions="You are a helpful assistant. Answer in one short sentence.",
        )
        thread = await client.create_thread()
        await client.create_message(thread.name, "What is the capital of France?")

        run = await client.create_run(thread.name, assistant.name, max_output_tokens=64)
        run = await client.watch(run.name).result()
        print(f"{run.name}: {Run.State.Name(run.state)}")

        async for message in client.list_messages(thread.name, run=run.name):
            print("".join(part.text.value for part in message.content))


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
