"""What happens to a claimed run: attempt after attempt, until it has ended, paused, or is somebody else's."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum

from assistants.domain.errors import Fenced, Unavailable
from assistants.domain.names import run_name
from assistants.domain.ports import Claim, EventLog, RunStore
from assistants.domain.run_states import RunState
from assistants.runs.context import ThreadContexts
from assistants.runs.execution import Execution, TurnLost
from assistants.telemetry.observer import AttemptSpan, RunTelemetry
from runtime.engines.base import Engine

MAX_FRUITLESS_ATTEMPTS = 5
"""Attempts without a completed step after which a run fails."""

_logger = logging.getLogger(__name__)


class Outcome(Enum):
    """How a run was left."""

    SETTLED = "settled"
    """It has ended or paused, and that is stored: it needs nobody."""
    ELSEWHERE = "elsewhere"
    """A write was refused: somebody else has it."""
    UNDONE = "undone"
    """It is as it was: somebody has to take it over."""


class Attempts:
    """Carries claimed runs out."""

    def __init__(
        self,
        *,
        store: RunStore,
        event_log: EventLog,
        contexts: ThreadContexts,
        engine: Engine,
        telemetry: RunTelemetry,
        stopped: Callable[[str], bool],
        let_go: Callable[[Claim], None],
    ) -> None:
        """Takes the parts.

        Args:
            store: where runs are written.
            event_log: where journals are read.
            contexts: what prompts are made of.
            engine: what generates.
            telemetry: what is told of attempts.
            stopped: whether a run whose task is cancelled is to end as its row says.
            let_go: what is done when it is not: the next server takes it over.
        """
        self._store = store
        self._event_log = event_log
        self._contexts = contexts
        self._engine = engine
        self._telemetry = telemetry
        self._stopped = stopped
        self._let_go = let_go

    async def carry_out(self, claim: Claim) -> Outcome:
        """Makes attempts as long as turns are lost.

        Raises:
            Unavailable: the store is gone, so the run is left as it is.
            asyncio.CancelledError: the server stops; the attempt is forgiven.
        """
        next_claim: Claim | None = claim
        lost: TurnLost | None = None
        while next_claim is not None:
            try:
                return await self._attempt(next_claim, lost)
            except TurnLost as error:
                lost = error
            next_claim = await self._store.claim(claim.run.id, takeover=True)
        return Outcome.SETTLED  # it was ended from outside meanwhile

    async def _attempt(self, claim: Claim, lost: TurnLost | None) -> Outcome:
        """One attempt, after `lost` if there was one before. Raises TurnLost when it needs another."""
        span = self._telemetry.start_attempt(claim)
        execution = Execution(
            claim,
            store=self._store,
            event_log=self._event_log,
            contexts=self._contexts,
            engine=self._engine,
            observer=span.observer,
        )
        failure: Exception | None = None
        try:
            if span.traceparent is not None:
                self._store.set_attempt_traceparent(claim.fence, span.traceparent)
            return await self._drive(claim, execution, lost)
        except (TurnLost, Unavailable) as error:
            failure = error
            raise
        except Exception as error:  # noqa: BLE001 - the last resort of a run: recorded, and told by its state
            failure = error
            return await self._give_up(execution, error)
        finally:
            _end_span(span, execution, failure)

    async def _drive(self, claim: Claim, execution: Execution, lost: TurnLost | None) -> Outcome:
        try:
            if claim.run.status.state is RunState.CANCELLING:
                await execution.stop(RunState.CANCELLED)
            elif claim.fruitless_attempts >= MAX_FRUITLESS_ATTEMPTS:
                reason = f": {lost}" if lost else ""
                await execution.fail(f"gave up after {MAX_FRUITLESS_ATTEMPTS} attempts{reason}")
            else:
                await execution.drive()
        except asyncio.CancelledError:
            if not self._stopped(claim.run.id):
                self._let_go(claim)
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            return await self._settle(execution, otherwise=Outcome.UNDONE)
        except Fenced:
            return await self._settle(execution, otherwise=Outcome.ELSEWHERE)
        return Outcome.SETTLED

    async def _settle(self, execution: Execution, *, otherwise: Outcome) -> Outcome:
        """Ends a run that was stopped as its row says; `otherwise` when that says that it goes on."""
        run = await self._store.get(execution.run.project_id, execution.run.id)
        if run is None or run.status.state.final or run.status.state is RunState.REQUIRES_ACTION:
            return Outcome.SETTLED
        expire_time = run.status.expire_time
        overdue = expire_time is not None and expire_time <= datetime.now(UTC)
        try:
            if run.status.state is RunState.CANCELLING:
                await execution.stop(RunState.CANCELLED)
            elif run.status.state is RunState.IN_PROGRESS and overdue:
                await execution.stop(RunState.EXPIRED)
            else:
                return otherwise
        except Fenced:
            _logger.info("%s has a newer attempt", run_name(run.thread_id, run.id))
            return Outcome.ELSEWHERE
        return Outcome.SETTLED

    async def _give_up(self, execution: Execution, error: Exception) -> Outcome:
        name = run_name(execution.run.thread_id, execution.run.id)
        _logger.error("%s failed", name, exc_info=error)
        try:
            await execution.fail("the server had an internal error")
        except Fenced:
            return Outcome.ELSEWHERE
        except Exception:
            # The store is gone: the sweep will find what is left.
            _logger.exception("cannot record the failure of %s", name)
            return Outcome.UNDONE
        return Outcome.SETTLED


def _end_span(span: AttemptSpan, execution: Execution, failure: Exception | None) -> None:
    status = execution.outcome or execution.status
    span.end(state=status.state, error=failure or status.error, finish_reason=execution.finish_reason)
