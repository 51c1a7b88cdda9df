"""The seams to what stores state, streams events and holds the queue.

Every method takes the project: nothing of another project can be reached.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from assistants.domain.assistant import Assistant
from assistants.domain.message import Message
from assistants.domain.page import Page, PageRequest
from assistants.domain.run import Run
from assistants.domain.run_event import EventBody, RunEvent
from assistants.domain.run_step import RunStep
from assistants.domain.thread import Thread
from assistants.domain.tool import ToolOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """Makes a create idempotent for 24 hours."""

    method: str
    request_id: str
    fingerprint: str
    """Digest of the request: the same id with another request is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Right to write to a run; a newer claim takes it away."""

    project_id: str
    thread_id: str
    run_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A run taken for execution."""

    run: Run
    fence: Fence
    steps: tuple[RunStep, ...]
    """In order; the last may be in progress."""
    previous_traceparent: str | None
    """Trace context of the attempt before this one."""
    fruitless_attempts: int = 0
    """Attempts before this one that ended without a completed step, by no decision of a server's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A run that has got its tool outputs."""

    run: Run
    claim: Claim | None
    """Set when the run was taken in the same transaction."""


class AssistantRepository(Protocol):
    """Assistants of a project."""

    async def create(self, assistant: Assistant, request: RequestKey | None) -> Assistant:
        """Stores it, or gives the one that the request id made. Raises RequestIdReused."""
        ...

    async def get(self, project_id: str, assistant_id: str) -> Assistant | None:
        """None when there is none."""
        ...

    async def list(self, project_id: str, page: PageRequest) -> Page[Assistant]:
        """One page."""
        ...

    async def replace(self, assistant: Assistant, *, revision: int) -> bool:
        """Stores the new value if the stored revision is still `revision`."""
        ...

    async def delete(self, project_id: str, assistant_id: str, *, revision: int | None) -> bool:
        """Deletes it if it has that revision, when one is given."""
        ...


class ThreadRepository(Protocol):
    """Threads of a project."""

    async def create(self, thread: Thread, request: RequestKey | None) -> Thread:
        """Stores it, or gives the one that the request id made. Raises RequestIdReused."""
        ...

    async def get(self, project_id: str, thread_id: str) -> Thread | None:
        """None when there is none."""
        ...

    async def list(self, project_id: str, page: PageRequest) -> Page[Thread]:
        """One page."""
        ...

    async def replace(self, thread: Thread, *, revision: int) -> bool:
        """Stores the new metadata if the stored revision is still `revision`."""
        ...

    async def set_context_start(self, project_id: str, thread_id: str, position: int) -> None:
        """Moves the first position that prompts use; never backwards."""
        ...

    async def delete(self, project_id: str, thread_id: str, *, revision: int | None) -> bool:
        """Deletes it and all that is in it. Raises RunActive while a run is active."""
        ...


class MessageRepository(Protocol):
    """Messages of threads."""

    async def create(self, message: Message, request: RequestKey | None) -> Message:
        """Appends it. Raises RunActive, RequestIdReused, and NotFound without its thread."""
        ...

    async def get(self, project_id: str, thread_id: str, message_id: str) -> Message | None:
        """None when there is none."""
        ...

    async def list(
        self, project_id: str, thread_id: str, page: PageRequest, *, run_id: str | None
    ) -> Page[Message]:
        """One page, of the messages that a run wrote when one is given."""
        ...

    async def since(
        self, project_id: str, thread_id: str, position: int, *, at_most: int
    ) -> Sequence[Message]:
        """All messages from a position on, in order; `at_most` is how many that can be."""
        ...

    async def set_metadata(
        self, project_id: str, thread_id: str, message_id: str, metadata: Mapping[str, str]
    ) -> Message | None:
        """Replaces the metadata; None when there is no such message."""
        ...

    async def delete(self, project_id: str, thread_id: str, message_id: str) -> bool:
        """Deletes it. Raises RunActive while a run is active on the thread."""
        ...


class RunStore(Protocol):
    """Runs, their steps, and the one way to change them: by events.

    An event that is stored changes the rows that it tells of in the same
    transaction, or, on a cluster, right before it is published.
    """

    async def create(
        self, run: Run, messages: Sequence[Message], request: RequestKey | None, *, claim: Claim | None
    ) -> Run:
        """Stores a queued run and the messages before it, already taken if there is a `claim`.

        Gives the stored run, or the one that the request id made before. Writes in
        the order of calls: what is appended under the claim comes after.

        Raises RunActive, RequestIdReused, and NotFound without its thread.
        """
        ...

    async def claim(self, run_id: str, *, takeover: bool) -> Claim | None:
        """Takes a queued run: a new epoch and attempt. None when there is nothing to do.

        Only with `takeover` is a run taken that is in progress or cancelling: whoever
        had it is gone, or is fenced from now on.
        """
        ...

    async def append(self, fence: Fence, events: Sequence[EventBody]) -> int:
        """Appends events and applies them; gives the last sequence.

        Raises Fenced when another attempt owns the run, or when its state is not
        the one that the events continue.
        """
        ...

    async def submit(
        self, run: Run, outputs: Sequence[ToolOutput], request: RequestKey | None, *, take: bool
    ) -> Submitted:
        """Completes the step of the open calls and queues the run, or takes it at once with `take`.

        A request that was made before changes nothing and gives the run as it is.

        Raises NoActionRequired, InvalidArgument unless every open call has exactly
        one output, RequestIdReused, and NotFound when it was deleted.
        """
        ...

    async def end_idle(self, project_id: str, run_id: str, *, expired: bool) -> Run | None:
        """Ends a run that nobody executes as cancelled, or as expired if its time has come.

        A run in progress becomes cancelling instead, unless `expired`. Gives the
        run as it is afterwards; None when there is none.
        """
        ...

    async def get(self, project_id: str, run_id: str) -> Run | None:
        """None when there is none."""
        ...

    async def list(self, project_id: str, thread_id: str | None, page: PageRequest) -> Page[Run]:
        """One page, of one thread or of all."""
        ...

    async def set_metadata(self, project_id: str, run_id: str, metadata: Mapping[str, str]) -> Run | None:
        """Replaces the metadata; None when there is no such run."""
        ...

    async def active(self, project_id: str, thread_id: str) -> Run | None:
        """The run that holds the thread."""
        ...

    def let_go(self, fence: Fence) -> None:
        """Forgives the attempt: the server stops, and the next one takes the run over. Does not wait."""
        ...

    def set_attempt_traceparent(self, fence: Fence, traceparent: str) -> None:
        """Remembers the trace context of the attempt, for the next one to link to. Does not wait."""
        ...

    async def get_step(self, project_id: str, run_id: str, step_id: str) -> RunStep | None:
        """None when there is none."""
        ...

    async def list_steps(self, project_id: str, run_id: str, page: PageRequest) -> Page[RunStep]:
        """One page."""
        ...

    async def unfinished(self) -> Sequence[str]:
        """Ids of the runs of all projects that somebody has to execute, oldest first."""
        ...

    async def overdue(self, now: datetime) -> Sequence[Run]:
        """Active runs of all projects whose time to expire has come."""
        ...


class RequestIds(Protocol):
    """Request ids that made something."""

    async def forget_old(self) -> None:
        """Deletes those that are older than they are kept."""
        ...


class EventLog(Protocol):
    """Journals of runs, to read."""

    async def read(self, run_id: str, *, after: int, limit: int) -> Sequence[RunEvent]:
        """Events after a sequence, in order."""
        ...

    def subscribe(self, listener: Callable[[str, Sequence[RunEvent]], None]) -> None:
        """Calls `listener(run_id, events)` on the loop after each append, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRun:
    """A run to execute."""

    run_id: str
    takeover: bool
    """Whether it was in progress when its executor went away."""


class RunQueue(Protocol):
    """Runs that wait to be executed."""

    async def put(self, queued: QueuedRun) -> None:
        """Adds one; twice is harmless, since a claim lets only one in."""
        ...

    async def take(self) -> QueuedRun:
        """Waits for the oldest."""
        ...


class Signals(Protocol):
    """Tells whoever executes a run to stop."""

    def stop(self, run_id: str) -> None:
        """Makes the executor look at the run's state. A lost signal costs time, not truth."""
        ...
