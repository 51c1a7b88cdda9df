"""Gets an answer in exactly the form that a JSON Schema asks for, as values of this program.

Start a server with `assistants serve`, then:

    python examples/05_structured_output.py [ADDRESS] [--model MODEL]
"""

import argparse
import asyncio
import json

from pydantic import BaseModel, ConfigDict, Field

from assistants.client import DEFAULT_TARGET, Client, Model, Run
from assistants.v1.common_pb2 import JsonSchema, ResponseFormat

NOTE = "Met Ada Lovelace (36) in London. She knows mathematics and music. Call her on Friday."


class Person(BaseModel):
    """What is wanted of the note."""

    model_config = ConfigDict(extra="forbid")

    name: str
    age: int = Field(ge=0, le=150)
    skills: list[str]


def form_of(model: type[BaseModel]) -> ResponseFormat:
    """The response format that gives one value of a model."""
    schema = JsonSchema(name=model.__name__, schema_json=json.dumps(model.model_json_schema()), strict=True)
    return ResponseFormat(json_schema=schema)


async def main(address: str, model: str | None) -> None:
    """Reads a person out of a note, while it is being written and when it is whole."""
    async with Client(address) as client:
        assistant = await client.create_assistant(
            model=model or await first_loaded_model(client),
            instructions="Read the person out of the note that the user gives.",
        )
        thread = await client.create_thread()
        await client.create_message(thread.name, NOTE)
        stream = client.stream(
            thread.name, assistant.name, response_format=form_of(Person), max_output_tokens=128
        )
        run = await stream.result()
        if run.state != Run.STATE_COMPLETED:
            raise SystemExit(f"{run.name} ended as {Run.State.Name(run.state)}")
        # Valid by construction: what does not satisfy the schema is never an answer.
        print(repr(Person.model_validate_json(stream.text)))


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
