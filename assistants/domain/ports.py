"""The seams to what stores state, streams events and holds the queue.

Every method takes the project: nothing of another project can be reached.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from assistants.domain.assistant import Assistant
from assistants.domain.message import Message
from assistants.domain.page import Page, PageRequest
from assistants.domain.run import Run
from assistants.domain.run_event import EventBody, RunEvent
from assistants.domain.run_states import RunState
from assistants.domain.run_step import RunStep
from assistants.domain.thread import Thread
from assistants.domain.thread_content import ThreadContent
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
class Created:
    """A run that is stored."""

    run: Run
    waits: bool = False
    """Whether another run holds the thread: it is executed when that has ended."""
    interrupted: Run | None = None
    """The run that it has cancelled; one that is cancelling has to be stopped where it is executed."""


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


class ThreadTransfer(Protocol):
    """Whole threads, out of the store and into it."""

    async def read(self, project_id: str, thread_id: str) -> ThreadContent | None:
        """All of a thread at one moment; None when there is none. Raises RunActive while a run is active."""
        ...

    async def store(self, content: ThreadContent, request: RequestKey | None) -> Thread:
        """Stores a thread whole under its ids, or gives the one that the request id made.

        Of each run's journal there is the last event only. Raises AlreadyExists when
        an id is taken, RequestIdReused.
        """
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


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleRun:
    """A run that somebody has to execute, and that has made no progress for a while."""

    run_id: str
    state: RunState
    """Queued, in progress or cancelling."""


class RunStore(Protocol):
    """Runs, their steps, and the one way to change them: by events.

    An event that is stored changes the rows that it tells of in the same
    transaction, or, on a cluster, right before it is published.
    """

    async def create(
        self,
        run: Run,
        messages: Sequence[Message],
        request: RequestKey | None,
        *,
        claim: Claim | None,
        thread: Thread | None = None,
    ) -> Created:
        """Stores a queued run and the messages before it, already taken if there is a `claim`.

        With a `thread`, that is stored with them. While another run holds the thread,
        the run waits, unless its policy is to reject: it is not taken, and its
        messages are appended when it gets the thread.

        Gives the stored run, or the one that the request id made before. Writes in
        the order of calls: what is appended under the claim comes after.

        Raises RunActive, Overloaded when too many wait, RequestIdReused, and NotFound
        without its thread.
        """
        ...

    def on_admitted(self, listener: Callable[[str], None]) -> None:
        """Calls `listener(run_id)` on the loop when a waiting run has got its thread and can be claimed."""
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

    async def waiting(self, project_id: str, thread_id: str) -> Sequence[str]:
        """Ids of the runs that wait for the thread, in the order in which they get it."""
        ...

    def let_go(self, fence: Fence) -> Awaitable[object]:
        """Forgives the attempt: the server stops, and the next one takes the run over.

        Begins at once; waiting raises Unavailable.
        """
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

    async def idle(self, *, waiting_since: datetime, executing_since: datetime) -> Sequence[IdleRun]:
        """Runs of all projects that wait for an executor and have made no progress since a time.

        Queued and cancelling ones since `waiting_since`, those in progress since `executing_since`.
        """
        ...

    async def overdue(self, now: datetime) -> Sequence[Run]:
        """Runs of all projects whose time to expire has come, and those that have more left than they can.

        The latter are seen after a clock was set back: their `expire_time` is a
        minute or more beyond `now` and their `ttl_s`.
        """
        ...

    async def renew(self, project_id: str, run_id: str) -> None:
        """Gives a run that has not ended its whole time to expire again: the clock was set."""
        ...


class RequestIds(Protocol):
    """Request ids that made something."""

    async def forget_old(self) -> None:
        """Deletes those that are older than they are kept."""
        ...


class EventRetention(Protocol):
    """The events of runs that have ended."""

    async def prune(self, ended_before: datetime, *, at_most: int) -> int:
        """Deletes all but the last event of runs that ended before a moment.

        Deletes about `at_most` events, oldest runs first; gives how many. Fewer than
        `at_most` means that none is left.
        """
        ...


class EventLog(Protocol):
    """Journals of runs, to read."""

    async def read(self, run_id: str, *, after: int, limit: int) -> Sequence[RunEvent]:
        """Events after a sequence, in order."""
        ...

    def subscribe(self, listener: Callable[[str, Sequence[RunEvent]], None]) -> None:
        """Calls `listener(run_id, events)` on the loop after each append, in order."""
        ...


class LiveEvents(Protocol):
    """Events that other servers append, told as it happens. Some may never be: the event log has them."""

    @property
    def connected(self) -> bool:
        """Whether anything can be told now."""
        ...

    def subscribe(self, listener: Callable[[str, Sequence[RunEvent]], None]) -> None:
        """Calls `listener(run_id, events)` on the loop for the runs that are listened to."""
        ...

    async def listen(self, run_id: str) -> None:
        """Begins to tell a run's events. Those appended after the return are told, unless they get lost."""
        ...

    def ignore(self, run_id: str) -> None:
        """Ends what `listen` began. Does not wait."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRun:
    """A run to execute."""

    run_id: str
    takeover: bool
    """Whether it was in progress when its executor went away."""


class Delivery(Protocol):
    """A run taken from the queue. Nobody else gets it until it is answered, or this server is dead."""

    @property
    def run_id(self) -> str:
        """The run to execute."""
        ...

    @property
    def takeover(self) -> bool:
        """Whether somebody may have had it before, and is gone."""
        ...

    @property
    def tries(self) -> int:
        """How often it was given to somebody, this time included."""
        ...

    async def ack(self) -> None:
        """It needs nobody: its last write was accepted, or there is nothing to do.

        Never after a refused write: that would take the run from whoever has it now.
        """
        ...

    async def nak(self, delay_s: float = 0.0) -> None:
        """Somebody is to take it over, after a delay."""
        ...

    def drop(self) -> None:
        """Somebody else has it: nothing is said. If that is not so, it comes again after a while."""
        ...


class RunQueue(Protocol):
    """Runs that wait to be executed, and those in hand: each comes again when whoever has it dies."""

    @property
    def shared(self) -> bool:
        """Whether other servers take from it. A run has to pass through it then, to be missed."""
        ...

    async def put(self, queued: QueuedRun, *, again: bool = False) -> None:
        """Adds one; twice is harmless, since a claim lets only one in.

        Never fails: if the queue cannot be reached, the sweep does it `again` later,
        since the row says that the run is queued.
        """
        ...

    async def take(self) -> Delivery:
        """Waits for one."""
        ...

    async def has(self, run_id: str) -> bool:
        """Whether a run waits or is in anybody's hand. Raises Unavailable."""
        ...

    async def drain(self) -> None:
        """Takes no more, and gives back what waits here to be taken."""
        ...


class Signals(Protocol):
    """Tells whoever executes a run to stop."""

    def stop(self, run_id: str) -> None:
        """Makes the executor look at the run's state. A lost signal costs time, not truth."""
        ...
