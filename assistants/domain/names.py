"""Resource names: `threads/{thread}/runs/{run}` and the like, and back to ids."""

import re
from typing import NamedTuple

from assistants.domain.errors import InvalidArgument, Violation

_ID = r"([A-Za-z0-9_-]{1,64})"
_MODEL_ID = r"([A-Za-z0-9][A-Za-z0-9._:-]{0,127})"


class ThreadChild(NamedTuple):
    """Ids of something in a thread."""

    thread_id: str
    id: str


class StepPath(NamedTuple):
    """Ids of a step."""

    thread_id: str
    run_id: str
    id: str


def assistant_name(assistant_id: str) -> str:
    """assistants/{assistant}."""
    return f"assistants/{assistant_id}"


def thread_name(thread_id: str) -> str:
    """threads/{thread}."""
    return f"threads/{thread_id}"


def message_name(thread_id: str, message_id: str) -> str:
    """threads/{thread}/messages/{message}."""
    return f"threads/{thread_id}/messages/{message_id}"


def run_name(thread_id: str, run_id: str) -> str:
    """threads/{thread}/runs/{run}."""
    return f"threads/{thread_id}/runs/{run_id}"


def step_name(thread_id: str, run_id: str, step_id: str) -> str:
    """threads/{thread}/runs/{run}/steps/{step}."""
    return f"threads/{thread_id}/runs/{run_id}/steps/{step_id}"


def model_name(model_id: str) -> str:
    """models/{model}."""
    return f"models/{model_id}"


def parse_assistant(name: str, field: str = "name") -> str:
    """Id of the assistant. Raises InvalidArgument, as all of these do, when the name has another form."""
    return _parse(name, field, "assistants/{assistant}", rf"assistants/{_ID}")[0]


def parse_thread(name: str, field: str = "name") -> str:
    """Id of the thread."""
    return _parse(name, field, "threads/{thread}", rf"threads/{_ID}")[0]


def parse_message(name: str, field: str = "name") -> ThreadChild:
    """Ids of the message."""
    form = "threads/{thread}/messages/{message}"
    return ThreadChild(*_parse(name, field, form, rf"threads/{_ID}/messages/{_ID}"))


def parse_run(name: str, field: str = "name") -> ThreadChild:
    """Ids of the run."""
    return ThreadChild(*_parse(name, field, "threads/{thread}/runs/{run}", rf"threads/{_ID}/runs/{_ID}"))


def parse_step(name: str, field: str = "name") -> StepPath:
    """Ids of the step."""
    form = "threads/{thread}/runs/{run}/steps/{step}"
    return StepPath(*_parse(name, field, form, rf"threads/{_ID}/runs/{_ID}/steps/{_ID}"))


def parse_model(name: str, field: str = "name") -> str:
    """Name or alias of the model."""
    return _parse(name, field, "models/{model}", rf"models/{_MODEL_ID}")[0]


def _parse(name: str, field: str, form: str, pattern: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, name)
    if match is None:
        raise InvalidArgument(Violation(field, f"must have the form {form!r}, got {name!r}"))
    return match.groups()
