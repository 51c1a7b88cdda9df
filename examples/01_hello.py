"""Asks an assistant one question and prints the answer.

Start a server with `assistants serve`, then:

    python examples/01_hello.py
"""

import argparse
import asyncio

from assistants.client import DEFAULT_TARGET, Client, Model


async def main(address: str) -> None:
    """Creates an assistant, a thread, a message and a run, and waits for its end."""
    async with Client(address) as client:
        model = next(model for model in await client.list_models() if model.state == Model.STATE_LOADED)
        assistant = await client.create_assistant(
            model=model.name.removeprefix("models/"),
            display_name="Hello",
            instructions="You are a helpful assistant. Answer in one short sentence.",
        )
        thread = await client.create_thread()
        await client.create_message(thread.name, "What is the capital of France?")
        run = await client.create_run(thread.name, assistant.name, max_output_tokens=64)
        await client.watch(run.name).result()
        async for message in client.list_messages(thread.name, run=run.name):
            print("".join(part.text.value for part in message.content))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("address", nargs="?", default=DEFAULT_TARGET, help="of the server")
    asyncio.run(main(parser.parse_args().address))
