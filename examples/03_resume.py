"""Goes on with a run whose client died: a run outlives whoever started it.

A second process starts a run and prints each event. It is killed in the middle of
the answer. This process then watches the run from the last event that was printed.
Start a server with `assistants serve`, then:

    python examples/03_resume.py [ADDRESS] [--model MODEL]
"""

import argparse
import asyncio
import json
import sys

from assistants.client import DEFAULT_TARGET, Client, Model, text_of

PIECES_BEFORE_THE_KILL = 5


async def main(address: str, model: str | None) -> None:
    """Has a run started, kills its client, and reads the rest."""
    async with Client(address) as client:
        assistant = await client.create_assistant(model=model or await first_loaded_model(client))
        thread = await client.create_thread()
        await client.create_message(thread.name, "Tell me a long story about a lighthouse.")

        child = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, address, "--child", thread.name, assistant.name),
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        run, sequence, pieces = "", 0, []
        async for line in child.stdout:
            run, sequence, text = json.loads(line)
            if text:
                pieces.append(text)
                print(text, end="", flush=True)
            if len(pieces) == PIECES_BEFORE_THE_KILL and child.returncode is None:
                child.kill()
        await child.wait()
        print(f"\n[the client was killed; going on after event {sequence}]")

        async for event in client.watch(run, after_sequence=sequence):
            pieces.append(text_of(event))
            print(pieces[-1], end="", flush=True)
        print()

        stored = [
            part.text.value async for m in client.list_messages(thread.name, run=run) for part in m.content
        ]
        print("the pieces make the stored message:", "".join(pieces) == "".join(stored))


async def start_run(address: str, thread: str, assistant: str) -> None:
    """What the child does: starts the run and prints a line an event."""
    async with Client(address) as client:
        stream = client.stream(thread, assistant, max_output_tokens=256)
        async for event in stream:
            print(json.dumps([stream.run.name, event.sequence, text_of(event)]), flush=True)


async def first_loaded_model(client: Client) -> str:
    """The model that answers when none is named."""
    models = await client.list_models()
    return next(model.name for model in models if model.state == Model.STATE_LOADED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address", nargs="?", default=DEFAULT_TARGET)
    parser.add_argument("--model")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        asyncio.run(start_run(arguments.address, *arguments.child))
    else:
        asyncio.run(main(arguments.address, arguments.model))
