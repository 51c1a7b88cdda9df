"""A thread as lines of JSON: our own format, out and in again unchanged.

    {"thread": {"id": "thread_1", "create_time": "2026-01-01T00:00:00Z", …}, "format": 1}
    {"message": {"id": "msg_1", "position": 0, "role": "user", …}}
    {"run": {"id": "run_1", "settings": {…}, "status": {"state": "completed", …}, …}}
    {"run_step": {"id": "step_1", "run_id": "run_1", "index": 0, …}}

The objects are the values of `assistants.domain` without their project; what has
its default may be left out.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from assistants.domain.errors import InvalidArgument, Violation
from assistants.domain.message import Message
from assistants.domain.run import Run
from assistants.domain.run_step import RunStep, without_reasoning
from assistants.domain.thread import Thread
from assistants.domain.thread_content import ThreadContent
from assistants.domain.validation import shown

FORMAT = 1
"""What this version writes, and the newest that it reads."""
_PROJECT = "project_id"
_COUNTS = {
    "last_sequence",
    "max_input_tokens",
    "max_output_tokens",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "reasoning_output_tokens",
    "seed",
}
"""Fields that are int64 in the API; the others are int32."""
_ZONED = re.compile(r"([zZ]|[+-]\d\d:?\d\d)$")

T = TypeVar("T", Thread, Message, Run, RunStep)
Entry = Thread | Message | Run | RunStep


class _Kind(Generic[T]):
    """One kind of entry."""

    def __init__(self, name: str, type_: type[T]) -> None:
        self.name = name
        self._adapter: TypeAdapter[T] = TypeAdapter(type_)

    def dump(self, value: T) -> dict[str, Any]:
        """The JSON object, without the project."""
        fields: dict[str, Any] = self._adapter.dump_python(value, mode="json")
        del fields[_PROJECT]
        return fields

    def load(self, fields: Mapping[str, Any], project_id: str) -> T:
        """The value in a project. Raises ValidationError."""
        return self._adapter.validate_json(json.dumps({**fields, _PROJECT: project_id}), strict=True)


_THREAD, _MESSAGE, _RUN, _STEP = (
    _Kind("thread", Thread),
    _Kind("message", Message),
    _Kind("run", Run),
    _Kind("run_step", RunStep),
)
_KINDS: dict[str, _Kind[Any]] = {kind.name: kind for kind in (_THREAD, _MESSAGE, _RUN, _STEP)}


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read: its number, from 1, and what is in it."""

    number: int
    value: Any


def dump_lines(content: ThreadContent) -> Iterator[str]:
    """The lines of a thread, without line ends. Thoughts that clients do not see are left out."""
    yield _line({_THREAD.name: _THREAD.dump(content.thread), "format": FORMAT})
    for message in content.messages:
        yield _line({_MESSAGE.name: _MESSAGE.dump(message)})
    shown_thoughts = set()
    for run in content.runs:
        if run.settings.include_reasoning:
            shown_thoughts.add(run.id)
        yield _line({_RUN.name: _RUN.dump(run)})
    for step in content.steps:
        told = step if step.run_id in shown_thoughts else without_reasoning(step)
        yield _line({_STEP.name: _STEP.dump(told)})


def load_line(line: Line, project_id: str) -> Entry:
    """The entry of a line of our own format. Raises InvalidArgument."""
    kinds = [name for name in _KINDS if name in line.value]
    if len(kinds) != 1:
        raise refused(line, "", f"must have one of {', '.join(_KINDS)}, got {shown(', '.join(line.value))}")
    (name,) = kinds
    others = {"format"} if name == _THREAD.name else set()
    if extra := line.value.keys() - {name} - others:
        raise refused(line, min(extra), "is no field of this line")
    if name == _THREAD.name and line.value.get("format") != FORMAT:
        raise refused(line, "format", f"must be {FORMAT}, got {line.value.get('format')!r}")
    fields = line.value[name]
    if not isinstance(fields, dict):
        raise refused(line, name, "must be an object")
    if _PROJECT in fields:
        raise refused(line, f"{name}.{_PROJECT}", "is no field of this object")
    kind = _KINDS[name]
    try:
        entry: Entry = kind.load(fields, project_id)
    except ValidationError as error:
        raise validation_refused(line, name, error) from error
    for path, rule in _untellable(fields, name):
        raise refused(line, path, rule)
    # What is not kept must not be passed over in silence.
    for path in _unknown(fields, kind.dump(entry), name):
        raise refused(line, path, "is no field of this object")
    return entry


def refused(line: Line, field: str, rule: str) -> InvalidArgument:
    """The error for a field of a line."""
    where = f"line {line.number}"
    return InvalidArgument(Violation(f"{where}: {field}" if field else where, rule))


def validation_refused(line: Line, name: str, error: ValidationError) -> InvalidArgument:
    """The error for what pydantic found in an object, which is in the field `name` of a line."""
    found = []
    for detail in error.errors(include_url=False, include_context=False)[:8]:
        path = name
        for part in detail["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
        path = path.removeprefix(".")
        given = "" if detail["type"] == "missing" else f", got {shown(str(detail['input']))}"
        found.append(Violation(f"line {line.number}: {path}", f"{detail['msg']}{given}"))
    return InvalidArgument(*found)


def _unknown(given: Any, kept: Any, path: str) -> Iterator[str]:
    match given, kept:
        case dict(), dict():
            for key, value in given.items():
                if key not in kept:
                    yield f"{path}.{key}"
                else:
                    yield from _unknown(value, kept[key], f"{path}.{key}")
        case list(), list():
            for index, (one, other) in enumerate(zip(given, kept, strict=True)):
                yield from _unknown(one, other, f"{path}[{index}]")
        case _:
            pass


def _untellable(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """What no message of the API has room for, and times that say no zone."""
    match value:
        case dict():
            for key, item in value.items():
                yield from _untellable(item, f"{path}.{key}")
        case list():
            for index, item in enumerate(value):
                yield from _untellable(item, f"{path}[{index}]")
        case bool():
            pass
        case int():
            most = 2**53 if path.rpartition(".")[2] in _COUNTS else 2**31 - 1
            if not 0 <= value <= most:
                yield path, f"must be between 0 and {most}, got {value}"
        case str() if path.endswith("_time") and not _ZONED.search(value):
            yield path, f"must be a time with its zone, such as 2026-01-01T00:00:00Z, got {shown(value)}"
        case _:
            pass


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
