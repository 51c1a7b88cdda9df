"""What one transaction does to runs: events, and the threads that pass from run to run with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from assistants.domain.ports import Claim, Fence
from assistants.domain.run import Run
from assistants.domain.run_claim import claimed_status
from assistants.domain.run_ending import ending
from assistants.domain.run_event import EventBody, RunChanged, RunEvent
from assistants.domain.run_states import Actor, RunState, check_transition
from assistants.domain.run_step import RunStep
from assistants.storage import run_rows
from assistants.storage.connection import Connection
from assistants.storage.run_events import AppendPlace, append_events, next_place, take_epoch
from assistants.storage.run_turns import admit_next


@dataclass(frozen=True, slots=True)
class RunChanges:
    """Changes runs within one transaction, and remembers what to tell once it is committed."""

    connection: Connection
    events: list[tuple[str, Sequence[RunEvent]]] = field(default_factory=list)
    """By run, in order."""
    admitted: list[str] = field(default_factory=list)
    """Runs that have got the thread that they waited for."""

    def append(
        self, place: AppendPlace, events: Sequence[EventBody], *, thread_id: str, holds_thread: bool = True
    ) -> Sequence[RunEvent]:
        """Appends and applies events. With the end of a run that holds its thread, the next one gets it."""
        stored = append_events(self.connection, place, events)
        self.events.append((place.run_id, stored))
        if stored[-1].final and holds_thread:
            admitted = admit_next(self.connection, place.project_id, thread_id)
            if admitted is not None:
                self.admitted.append(admitted)
        return stored

    def take(self, run: Run, steps: tuple[RunStep, ...]) -> Claim:
        """Takes a run that is locked: a new epoch and attempt."""
        taken = take_epoch(self.connection, run.id)
        status = claimed_status(run, taken.attempt)
        place = next_place(self.connection, run, attempt=taken.attempt, count=1)
        events = self.append(place, [RunChanged(status)], thread_id=run.thread_id)
        last_useful = max((taken.forgiven_attempt, *(s.attempt for s in steps if s.end_time is not None)))
        return Claim(
            run=replace(run, status=status, last_sequence=events[-1].sequence),
            fence=Fence(project_id=run.project_id, thread_id=run.thread_id, run_id=run.id, epoch=taken.epoch),
            steps=steps,
            previous_traceparent=taken.attempt_traceparent,
            fruitless_attempts=taken.attempt - 1 - last_useful,
        )

    def end(self, run: Run, state: RunState, time: datetime, *, by: Actor, holds_thread: bool) -> None:
        """Ends a run that is locked and that nobody executes, with what it has left open."""
        check_transition(run.status.state, state, by)
        events = ending(
            replace(run.status, state=state),
            run_rows.get_steps(self.connection, run.id),
            run_rows.open_messages(self.connection, run.project_id, run.id),
            time,
        )
        self._append_beside(run, events, holds_thread=holds_thread)

    def cancel(self, run: Run, time: datetime, *, holds_thread: bool) -> None:
        """Ends a run that is locked as cancelled; one that is being executed becomes cancelling."""
        if run.status.state is RunState.IN_PROGRESS:
            check_transition(run.status.state, RunState.CANCELLING, Actor.CANCELLER)
            cancelling = RunChanged(replace(run.status, state=RunState.CANCELLING))
            self._append_beside(run, [cancelling], holds_thread=holds_thread)
        else:
            self.end(run, RunState.CANCELLED, time, by=Actor.CANCELLER, holds_thread=holds_thread)

    def _append_beside(self, run: Run, events: Sequence[EventBody], *, holds_thread: bool) -> None:
        place = next_place(self.connection, run, attempt=run.status.attempt, count=len(events))
        self.append(place, events, thread_id=run.thread_id, holds_thread=holds_thread)
