"""Taking a run for execution."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from assistants.domain.ports import Claim, Fence
from assistants.domain.run import Run, RunStatus
from assistants.domain.run_states import Actor, RunState, check_transition
from assistants.domain.times import not_before


def claimed_status(run: Run, attempt: int) -> RunStatus:
    """The status of a run that is taken now. One that is cancelling stays so: it is taken to be ended."""
    old = run.status.state
    state = RunState.CANCELLING if old is RunState.CANCELLING else RunState.IN_PROGRESS
    check_transition(old, state, Actor.CLAIMER)
    now = datetime.now(UTC)
    return replace(
        run.status,
        state=state,
        attempt=attempt,
        start_time=run.status.start_time or not_before(now, run.create_time),
        expire_time=now + timedelta(seconds=run.settings.ttl_s),
    )


def first_claim(run: Run) -> Claim:
    """The claim of a run that is taken in the transaction that stores it: events 1 and 2 tell of both."""
    return Claim(
        run=replace(run, status=claimed_status(run, 1), last_sequence=2),
        fence=Fence(project_id=run.project_id, thread_id=run.thread_id, run_id=run.id, epoch=1),
        steps=(),
        previous_traceparent=None,
    )
