"""Runs on a cluster."""

from assistants.client import Client
from tests.paced_http import MODEL
from tests.recovery.journals import ask


async def create(client: Client, message: str) -> str:
    """Creates a run that is answered as the message says; gives its name."""
    thread, assistant = await ask(client, message, model=MODEL)
    return (await client.create_run(thread.name, assistant.name)).name
