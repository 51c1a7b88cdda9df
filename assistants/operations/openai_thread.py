"""A thread of OpenAI's Assistants API, version 2, as its own JSON objects, to our values.

Format: https://github.com/openai/openai-openapi, openapi.yaml: the objects thread,
thread.message, thread.run, thread.run.step, and list with any of them in `data`.
Their times are whole seconds: what was made in one second keeps the order of the
file, a microsecond apart.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import ValidationError

from assistants.domain.message import Message
from assistants.domain.run import Run
from assistants.operations import openai_objects as openai
from assistants.operations import openai_values as values
from assistants.operations.thread_lines import Line, refused, validation_refused
from assistants.operations.thread_rules import Placed

_MICROSECOND = timedelta(microseconds=1)
_OBJECTS: dict[str, type[openai.OpenAIObject]] = {
    "thread": openai.OpenAIThread,
    "thread.message": openai.OpenAIMessage,
    "thread.run": openai.OpenAIRun,
    "thread.run.step": openai.OpenAIStep,
}

T = TypeVar("T", Message, Run)
O = TypeVar("O", bound=openai.OpenAIObject)  # noqa: E741


@dataclass(frozen=True, slots=True)
class OpenAIEntry:
    """An object of OpenAI's, and where it stands."""

    line: Line
    kind: str
    value: openai.OpenAIObject


def is_openai(line: Line) -> bool:
    """Whether a line is of OpenAI's format and not of ours."""
    return "object" in line.value


def load_openai(line: Line) -> Iterator[OpenAIEntry]:
    """The objects of a line. Raises InvalidArgument."""
    if line.value["object"] != "list":
        yield _load(line, line.value, "")
        return
    data = line.value.get("data")
    if not isinstance(data, list):
        raise refused(line, "data", "must be a list")
    for index, item in enumerate(data):
        if not isinstance(item, dict):
            raise refused(line, f"data[{index}]", "must be an object")
        yield _load(line, item, f"data[{index}]")


def place_openai(entries: Sequence[OpenAIEntry], project_id: str) -> Sequence[Placed]:
    """Our entries, in order: the thread, then messages, runs and steps, oldest first.

    Raises InvalidArgument, FeatureUnavailable.
    """
    threads, messages, runs, steps = ([entry for entry in entries if entry.kind == kind] for kind in _OBJECTS)
    placed = [
        Placed(e.line, values.to_thread(_is(e, openai.OpenAIThread), e.line, project_id)) for e in threads
    ]
    spoken = [
        (e.line, values.to_message(_is(e, openai.OpenAIMessage), e.line, project_id))
        for e in _oldest_first(messages)
    ]
    made = [
        (e.line, values.to_run(_is(e, openai.OpenAIRun), e.line, project_id)) for e in _oldest_first(runs)
    ]
    for position, (line, message) in enumerate(_apart(spoken)):
        placed.append(Placed(line, replace(message, position=position)))
    placed += (Placed(line, run) for line, run in _apart(made))
    counts: dict[str, int] = {}
    for entry in _oldest_first(steps):
        step = values.to_step(_is(entry, openai.OpenAIStep), entry.line, project_id)
        index = counts[step.run_id] = counts.get(step.run_id, -1) + 1
        apart = index * _MICROSECOND
        end_time = step.end_time and step.end_time + apart
        step = replace(step, index=index, create_time=step.create_time + apart, end_time=end_time)
        placed.append(Placed(entry.line, step))
    return placed


def _load(line: Line, item: dict[str, Any], path: str) -> OpenAIEntry:
    kind = item.get("object")
    if not isinstance(kind, str) or kind not in _OBJECTS:
        field = f"{path}.object" if path else "object"
        raise refused(line, field, f"must be one of {', '.join(_OBJECTS)}, list, got {kind!r}")
    try:
        return OpenAIEntry(line, kind, _OBJECTS[kind].model_validate_json(json.dumps(item)))
    except ValidationError as error:
        raise validation_refused(line, path, error) from error


def _is(entry: OpenAIEntry, kind: type[O]) -> O:
    assert isinstance(entry.value, kind)
    return entry.value


def _oldest_first(entries: Sequence[OpenAIEntry]) -> Iterable[OpenAIEntry]:
    """Lists of the API are newest first unless asked for otherwise: their times say which."""
    times = [entry.value.created_at for entry in entries]
    newest_first = len(times) > 1 and times[0] > times[-1]
    ordered = reversed(entries) if newest_first else entries
    return sorted(ordered, key=lambda entry: entry.value.created_at)


def _apart(values: Sequence[tuple[Line, T]]) -> Iterator[tuple[Line, T]]:
    """Makes each later than the one before it."""
    previous = None
    for line, value in values:
        create_time = value.create_time
        if previous is not None and create_time <= previous:
            create_time = previous + _MICROSECOND
        previous = create_time
        moved = create_time - value.create_time
        if isinstance(value, Message):
            yield (
                line,
                replace(value, create_time=create_time, end_time=value.end_time and value.end_time + moved),
            )
        else:
            ended = value.status.end_time
            status = replace(value.status, end_time=ended and ended + moved)
            yield line, replace(value, create_time=create_time, status=status)
