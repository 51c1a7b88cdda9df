"""A thread with all that is in it, to be moved between servers."""

from dataclasses import dataclass

from assistants.domain.message import Message
from assistants.domain.run import Run
from assistants.domain.run_step import RunStep
from assistants.domain.thread import Thread


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadContent:
    """A thread on which no run is active. Journals are not part of it."""

    thread: Thread
    messages: tuple[Message, ...] = ()
    """By position."""
    runs: tuple[Run, ...] = ()
    """By creation; all have ended."""
    steps: tuple[RunStep, ...] = ()
    """By run, then by index; all have ended."""
