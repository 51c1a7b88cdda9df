"""Threads: stored conversations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A stored conversation."""

    id: str
    project_id: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    revision: int = 1
    """Counts changes of the thread's own fields, from 1; the etag."""
    create_time: datetime
    update_time: datetime
    history_version: int = 0
    """Grows when a message is deleted: what was remembered of the history no longer holds."""
    next_position: int = 0
    """Position that the next message gets."""
    context_start: int = 0
    """Position of the first message that prompts use; moves in large steps."""
