"""Errors of the server, told to clients in the same words over every edge.

AssistantsError
├── InvalidArgument       INVALID_FIELD, one violation a field
│   └── RequestIdReused   REQUEST_ID_REUSED
├── FeatureUnavailable    FEATURE_UNAVAILABLE, a field that this version refuses
├── NotFound              RESOURCE_NOT_FOUND
├── FailedPrecondition    something must change first
│   ├── RunActive         RUN_ACTIVE
│   ├── RunEnded          RUN_ENDED
│   └── NoActionRequired  NO_ACTION_REQUIRED
├── EtagMismatch          ETAG_MISMATCH
├── AlreadyExists         ALREADY_EXISTS, an id is taken
├── EventsPruned          EVENTS_PRUNED, the events after a cursor are no longer kept
├── OutputInvalid         OUTPUT_INVALID, no try gave an answer that satisfies its schema
├── Unavailable           UNAVAILABLE, try again
│   ├── StorageFull       STORAGE_FULL
│   └── Overloaded        OVERLOADED, too much waits already
└── DeadlineExceeded      DEADLINE_EXCEEDED, made by the client

Internal to the server, never told to a client:
Fenced                    a newer attempt owns the run
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

Code = Literal[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "DEADLINE_EXCEEDED",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
]
"""Canonical code of google.rpc.Code."""


class AssistantsError(Exception):
    """Root: a code, a reason for programs, a message for people."""

    code: ClassVar[Code]
    reason: ClassVar[str]
    """UPPER_SNAKE, never changed once released."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata
        """Every variable of the message."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule."""

    field: str
    """Path of the field, such as `content[0].text`."""
    description: str
    """The rule and the value that breaks it."""


class InvalidArgument(AssistantsError):
    """Fields of the request break rules."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID_FIELD"

    def __init__(self, *violations: Violation) -> None:
        super().__init__(
            "; ".join(f"{v.field}: {v.description}" for v in violations), field=violations[0].field
        )
        self.violations = violations

    def within(self, prefix: str) -> "InvalidArgument":
        """The same error with fields named from one level further up."""
        return type(self)(*(Violation(f"{prefix}.{v.field}", v.description) for v in self.violations))


class RequestIdReused(InvalidArgument):
    """The request id was used with another request."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, *violations: Violation) -> None:
        super().__init__(*violations)

    @classmethod
    def of(cls, request_id: str) -> "RequestIdReused":
        """The error for this id."""
        return cls(Violation("request_id", f"{request_id!r} was used with another request"))


class FeatureUnavailable(AssistantsError):
    """This version of the server does not do what a field asks for."""

    code = "UNIMPLEMENTED"
    reason = "FEATURE_UNAVAILABLE"

    def __init__(self, field: str, what: str) -> None:
        super().__init__(f"{field}: {what} is not available in this version", field=field, feature=what)
        self.field = field

    def within(self, prefix: str) -> "FeatureUnavailable":
        """The same error with the field named from one level further up."""
        return FeatureUnavailable(f"{prefix}.{self.field}", self.metadata["feature"])


class NotFound(AssistantsError):
    """There is no such resource in the project."""

    code = "NOT_FOUND"
    reason = "RESOURCE_NOT_FOUND"

    def __init__(self, resource_type: str, name: str) -> None:
        super().__init__(
            f"No {resource_type} found with name {name!r}", resource_type=resource_type, name=name
        )
        self.resource_type = resource_type
        self.name = name


class FailedPrecondition(AssistantsError):
    """Something must change before the call can succeed."""

    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"

    def __init__(self, message: str, *, subject: str, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.subject = subject
        """Name of what must change."""


class RunActive(FailedPrecondition):
    """The thread has an active run."""

    reason = "RUN_ACTIVE"

    def __init__(self, *, thread: str, run: str) -> None:
        super().__init__(f"{thread} has an active run: {run}", subject=run, thread=thread, run=run)
        self.run = run


class RunEnded(FailedPrecondition):
    """The run has ended."""

    reason = "RUN_ENDED"

    def __init__(self, *, run: str, state: str) -> None:
        super().__init__(f"{run} has ended with state {state!r}", subject=run, run=run, state=state)


class NoActionRequired(FailedPrecondition):
    """The run does not wait for tool outputs."""

    reason = "NO_ACTION_REQUIRED"

    def __init__(self, *, run: str, state: str) -> None:
        super().__init__(
            f"{run} is in state {state!r} and does not accept tool outputs", subject=run, run=run, state=state
        )


class EtagMismatch(AssistantsError):
    """The resource has changed since the client read it."""

    code = "ABORTED"
    reason = "ETAG_MISMATCH"

    def __init__(self, name: str, *, given: str, current: str) -> None:
        super().__init__(
            f"{name} has etag {current!r}, not {given!r}: read it again",
            name=name,
            given=given,
            current=current,
        )


class AlreadyExists(AssistantsError):
    """A resource that was to be stored under its own id is there already."""

    code = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"

    def __init__(self, resource_type: str, name: str) -> None:
        super().__init__(
            f"There is a {resource_type} with name {name!r} already", resource_type=resource_type, name=name
        )
        self.resource_type = resource_type
        self.name = name


class EventsPruned(AssistantsError):
    """Events after the cursor are no longer kept: the run ended long ago."""

    code = "OUT_OF_RANGE"
    reason = "EVENTS_PRUNED"

    def __init__(self, *, run: str, after_sequence: int, oldest_sequence: int) -> None:
        super().__init__(
            f"{run} has no events from {after_sequence + 1} on any more, the oldest is {oldest_sequence}",
            run=run,
            after_sequence=str(after_sequence),
            oldest_sequence=str(oldest_sequence),
        )
        self.oldest_sequence = oldest_sequence
        """What can be watched: the events after the one before it."""


class Unavailable(AssistantsError):
    """The server cannot serve the call now."""

    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_s: float, **metadata: str) -> None:
        super().__init__(message, **metadata)
        self.retry_after_s = retry_after_s


class StorageFull(Unavailable):
    """The database cannot be written: its disk is full, or fails."""

    reason = "STORAGE_FULL"


class Overloaded(Unavailable):
    """Too many generations wait for a slot already."""

    reason = "OVERLOADED"


class OutputInvalid(AssistantsError):
    """No try gave an answer that satisfies its schema. Asking again may."""

    code = "ABORTED"
    reason = "OUTPUT_INVALID"

    def __init__(self, violations: str) -> None:
        super().__init__(f"The answer does not satisfy its schema: {violations}", violations=violations)


class DeadlineExceeded(AssistantsError):
    """The server did not answer in the time that the client gave it."""

    code = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class Fenced(Exception):
    """The write was refused: the run has moved on without this attempt."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"another attempt owns {run_id}, or it was stopped")
        self.run_id = run_id


class DatabaseError(Exception):
    """The database cannot be used by this server; the message is one line for people."""


class DataDirectoryError(DatabaseError):
    """The data directory cannot be used."""


class BrokerError(Exception):
    """NATS cannot be used by this server; the message is one line for people."""
