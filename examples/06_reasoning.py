"""Asks the same question with more and more effort, and then by a vote of several samples.

Start a server with `assistants serve`, then:

    python examples/06_reasoning.py [ADDRESS] [--model MODEL]
"""

import argparse
import asyncio
import json
from typing import Any

from assistants.client import DEFAULT_TARGET, Client, Model
from assistants.client_chat import message_text, user
from assistants.v1.common_pb2 import (
    EFFORT_HIGH,
    EFFORT_LOW,
    EFFORT_NONE,
    Effort,
    GenerationParams,
    JsonSchema,
    ResponseFormat,
)

QUESTION = "A box holds 4 apples. Tom has 3 boxes and eats 2 apples. How many apples are left?"
SCHEMA = {
    "type": "object",
    "properties": {"apples": {"type": "integer"}},
    "required": ["apples"],
    "additionalProperties": False,
}
FORM = ResponseFormat(json_schema=JsonSchema(name="answer", schema_json=json.dumps(SCHEMA), strict=True))


async def main(address: str, model: str | None) -> None:
    """Shows what effort and consensus cost, and what they give."""
    async with Client(address) as client:
        asked: dict[str, Any] = {
            "model": model or await first_loaded_model(client),
            "messages": [user(QUESTION)],
            "response_format": FORM,
            "max_output_tokens": 512,
        }
        for effort in (EFFORT_NONE, EFFORT_LOW, EFFORT_HIGH):
            completion = await client.create_chat_completion(effort=effort, include_reasoning=True, **asked)
            message, usage = completion.choices[0].message, completion.usage
            spent = f"{usage.reasoning_output_tokens} of {usage.output_tokens} tokens were reasoning"
            print(f"{Effort.Name(effort)}: {message_text(message)}, {spent}")
            for part in message.content:
                if part.HasField("reasoning"):
                    print(f"  it thought: {' '.join(part.reasoning.text.split())[:72]}...")

        completion = await client.create_chat_completion(
            effort=EFFORT_LOW, consensus=6, generation_params=GenerationParams(temperature=0.8), **asked
        )
        votes = ", ".join(f"{vote.count} for {vote.answer}" for vote in completion.choices[0].votes)
        print(f"the majority: {message_text(completion.choices[0].message)} ({votes})")


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
