"""Messages: entries of threads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from assistants.domain.content import ContentPart, Role, TextPart


class MessageState(StrEnum):
    """Where a message stands."""

    IN_PROGRESS = "in_progress"
    INCOMPLETE = "incomplete"
    COMPLETED = "completed"


class MessageIncompleteReason(StrEnum):
    """Why a message was cut short."""

    MAX_OUTPUT_TOKENS = "max_output_tokens"
    RUN_CANCELLED = "run_cancelled"
    RUN_EXPIRED = "run_expired"
    RUN_FAILED = "run_failed"
    ATTEMPT_LOST = "attempt_lost"
    """The attempt that began it was lost, and the next one did without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """What a client chooses about a message."""

    role: Role
    content: tuple[ContentPart, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An entry of a thread."""

    id: str
    project_id: str
    thread_id: str
    role: Role
    content: tuple[ContentPart, ...]
    state: MessageState
    incomplete_reason: MessageIncompleteReason | None = None
    assistant_id: str | None = None
    """Assistant that wrote it."""
    run_id: str | None = None
    """Run that wrote it."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime
    end_time: datetime | None = None
    """When it became completed or incomplete."""
    position: int = -1
    """Place in its thread, from 0, without gaps until messages are deleted; -1 before it is stored."""

    @property
    def text(self) -> str:
        """The text parts, joined by line ends."""
        return "\n".join(part.value for part in self.content if isinstance(part, TextPart))
