"""What the entries of a thread that comes in must be like, together."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from assistants.domain.content import FilePart, Role
from assistants.domain.errors import AssistantsError, FeatureUnavailable, InvalidArgument
from assistants.domain.ids import new_id
from assistants.domain.message import Message, MessageState
from assistants.domain.run import Run
from assistants.domain.run_step import MessageCreation, RunStep, StepState
from assistants.domain.thread import Thread
from assistants.domain.thread_content import ThreadContent
from assistants.domain.validation import Violations, shown
from assistants.operations.new_run import MAX_TTL_S
from assistants.operations.thread_lines import Entry, Line, refused

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Placed:
    """An entry, and the line that it came in."""

    line: Line
    entry: Entry


def assemble(placed: Sequence[Placed]) -> ThreadContent:
    """The thread that entries make, the thread itself first. Raises InvalidArgument, FeatureUnavailable."""
    thread, rest = _thread(placed)
    checker = _Checker(thread)
    for item in rest:
        checker.add(item)
    return checker.content()


def with_new_ids(content: ThreadContent) -> ThreadContent:
    """The same thread under ids that nobody has."""
    thread_id = new_id("thread")
    messages = {message.id: new_id("msg") for message in content.messages}
    runs = {run.id: new_id("run") for run in content.runs}
    return ThreadContent(
        thread=replace(content.thread, id=thread_id),
        messages=tuple(
            replace(
                message,
                id=messages[message.id],
                thread_id=thread_id,
                run_id=message.run_id and runs.get(message.run_id, message.run_id),
            )
            for message in content.messages
        ),
        runs=tuple(replace(run, id=runs[run.id], thread_id=thread_id) for run in content.runs),
        steps=tuple(
            replace(
                step,
                id=new_id("step"),
                thread_id=thread_id,
                run_id=runs[step.run_id],
                details=(
                    MessageCreation(message_id=messages.get(step.details.message_id, step.details.message_id))
                    if isinstance(step.details, MessageCreation)
                    else step.details
                ),
            )
            for step in content.steps
        ),
    )


def _thread(placed: Sequence[Placed]) -> tuple[Thread, Sequence[Placed]]:
    if not placed:
        raise refused(Line(1, None), "", "there is no line with a thread")
    first, *rest = placed
    if not isinstance(first.entry, Thread):
        raise refused(first.line, "", "must be the thread: it comes first")
    thread = first.entry
    _check_id(first.line, "thread.id", thread.id)
    _check_metadata(first.line, "thread", thread.metadata)
    _check_order(first.line, "thread.update_time", thread.create_time, thread.update_time)
    return thread, rest


class _Checker:
    """Takes entries one by one."""

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        self._seen: dict[str, int] = {}
        self._positions: dict[int, int] = {}
        self._messages: list[Message] = []
        self._runs: dict[str, Run] = {}
        self._steps: dict[tuple[str, int], tuple[Line, RunStep]] = {}

    def add(self, placed: Placed) -> None:
        """Raises InvalidArgument, FeatureUnavailable."""
        line, entry = placed.line, placed.entry
        if isinstance(entry, Thread):
            raise refused(line, "", "is a second thread")
        name = {Message: "message", Run: "run", RunStep: "run_step"}[type(entry)]
        _check_id(line, f"{name}.id", entry.id)
        if (first := self._seen.setdefault(entry.id, line.number)) != line.number:
            raise refused(line, f"{name}.id", f"must be unique, got {shown(entry.id)} as line {first} has")
        if entry.thread_id != self._thread.id:
            rule = f"must be the thread's id {shown(self._thread.id)}, got {shown(entry.thread_id)}"
            raise refused(line, f"{name}.thread_id", rule)
        match entry:
            case Message():
                self._add_message(line, entry)
            case Run():
                self._add_run(line, entry)
            case RunStep():
                self._add_step(line, entry)

    def content(self) -> ThreadContent:
        """All of it. Raises InvalidArgument for what only shows at the end."""
        order = {run_id: place for place, run_id in enumerate(self._runs)}
        for (run_id, index), (line, _) in self._steps.items():
            if run_id not in order:
                rule = f"must be a run of these lines, got {shown(run_id)}"
                raise refused(line, "run_step.run_id", rule)
            if index and (run_id, index - 1) not in self._steps:
                raise refused(line, "run_step.index", f"must follow one another from 0, got {index}")
        steps = sorted((step for _, step in self._steps.values()), key=lambda s: (order[s.run_id], s.index))
        messages = sorted(self._messages, key=lambda message: message.position)
        after_last = messages[-1].position + 1 if messages else 0
        thread = replace(self._thread, next_position=max(self._thread.next_position, after_last))
        runs = tuple(self._runs.values())
        return ThreadContent(thread=thread, messages=tuple(messages), runs=runs, steps=tuple(steps))

    def _add_message(self, line: Line, message: Message) -> None:
        _check_metadata(line, "message", message.metadata)
        if message.state is MessageState.IN_PROGRESS:
            raise refused(line, "message.state", "must be completed or incomplete, got 'in_progress'")
        _check_order(line, "message.end_time", message.create_time, message.end_time)
        if message.position < 0:
            raise refused(line, "message.position", f"must be 0 or more, got {message.position}")
        if (first := self._positions.setdefault(message.position, line.number)) != line.number:
            rule = f"must be unique, got {message.position} as line {first} has"
            raise refused(line, "message.position", rule)
        if message.role is Role.USER:
            violations = Violations()
            try:
                violations.content(message.role, message.content)
                violations.check()
            except (InvalidArgument, FeatureUnavailable) as error:
                raise _at(line, error.within("message")) from error
        elif any(isinstance(part, FilePart) for part in message.content):
            raise _at(line, FeatureUnavailable("message.content", "a file in a message"))
        self._messages.append(message)

    def _add_run(self, line: Line, run: Run) -> None:
        _check_metadata(line, "run", run.metadata)
        if not run.status.state.final:
            raise refused(line, "run.status.state", f"must be final, got {run.status.state.value!r}")
        _check_order(line, "run.status.end_time", run.create_time, run.status.end_time, required=True)
        if run.status.expire_time is not None:
            raise refused(line, "run.status.expire_time", "must not be set: the run has ended")
        if not 1 <= run.settings.ttl_s <= MAX_TTL_S:
            rule = f"must be between 1 and {MAX_TTL_S}, got {run.settings.ttl_s}"
            raise refused(line, "run.settings.ttl_s", rule)
        self._runs[run.id] = run

    def _add_step(self, line: Line, step: RunStep) -> None:
        if step.state is StepState.IN_PROGRESS:
            raise refused(line, "run_step.state", "must be final, got 'in_progress'")
        _check_order(line, "run_step.end_time", step.create_time, step.end_time)
        if step.index < 0:
            raise refused(line, "run_step.index", f"must be 0 or more, got {step.index}")
        if (step.run_id, step.index) in self._steps:
            first = self._steps[step.run_id, step.index][0].number
            raise refused(line, "run_step.index", f"must be unique, got {step.index} as line {first} has")
        self._steps[step.run_id, step.index] = (line, step)


def _check_id(line: Line, field: str, id_: str) -> None:
    if _ID.fullmatch(id_) is None:
        raise refused(line, field, f"must match ^{_ID.pattern}$, got {shown(id_)}")


def _check_order(
    line: Line, field: str, earlier: datetime, later: datetime | None, *, required: bool = False
) -> None:
    if later is None:
        if required:
            raise refused(line, field, "is required")
        return
    if later < earlier:
        rule = f"must not be before create_time {earlier.isoformat()}, got {later.isoformat()}"
        raise refused(line, field, rule)


def _check_metadata(line: Line, name: str, metadata: Mapping[str, str]) -> None:
    violations = Violations()
    violations.metadata(metadata)
    try:
        violations.check()
    except InvalidArgument as error:
        raise _at(line, error.within(name)) from error


def _at(line: Line, error: InvalidArgument | FeatureUnavailable) -> AssistantsError:
    """The error with the line named."""
    match error:
        case InvalidArgument(violations=violations):
            first = violations[0]
            return refused(line, first.field, first.description)
        case FeatureUnavailable():
            return FeatureUnavailable(f"line {line.number}: {error.field}", error.metadata["feature"])
