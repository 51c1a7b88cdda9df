"""One execution of a run: drives the loop and journals what it yields, until the run ends or pauses."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from assistants.domain.message import Message, MessageState
from assistants.domain.ports import Claim, EventLog, RunStore
from assistants.domain.run import RunError, RunErrorCode, RunIncompleteReason, RunStatus
from assistants.domain.run_event import EventBody, RunChanged
from assistants.domain.run_states import RunState
from assistants.domain.times import not_before
from assistants.domain.tool import ClientFunction
from assistants.runs.context import InputLimitExceeded, ThreadContexts
from assistants.runs.journal import Journal
from assistants.runs.own_turns import turns_made
from assistants.runs.replay import replay_messages
from assistants.runs.turn_record import TurnRecord
from runtime import events as engine_events
from runtime.engines.base import Engine
from runtime.errors import EngineError, EngineUnavailable, OutputInvalid, PromptRejected
from runtime.loop import LoopEvent, TurnStart, run_turns
from runtime.observe import Observer
from runtime.types import ChatRole, FinishReason, GenerateRequest, Usage


class TurnLost(Exception):
    """The engine died in the middle of a turn: the run needs a new attempt."""


class Execution:
    """One attempt at a run. What it began and did not finish, the next attempt begins again."""

    def __init__(
        self,
        claim: Claim,
        *,
        store: RunStore,
        event_log: EventLog,
        contexts: ThreadContexts,
        engine: Engine,
        observer: Observer,
    ) -> None:
        self.run = claim.run
        self.status = claim.run.status
        self.outcome: RunStatus | None = None
        """How it ended or paused, once that is journalled or on its way there."""
        self.finish_reason: FinishReason | None = None
        """Why the last generation stopped."""
        self._claim = claim
        self._store = store
        self._event_log = event_log
        self._contexts = contexts
        self._engine = engine
        self._observer = observer
        self._journal = Journal(store, claim.fence)
        self._record = TurnRecord(claim.run, claim.steps)

    async def drive(self) -> None:
        """Carries the run out, until it ends or waits for tool outputs.

        Raises:
            TurnLost: the engine died after it had spoken.
            Fenced: the run was stopped, or has a newer attempt.
            asyncio.CancelledError: whoever executes was told to stop; nothing is written.
        """
        try:
            if (limit := self._limit_reached()) is not None:
                await self._end_incomplete(limit)
            else:
                await self._turn()
        except EngineUnavailable as error:
            await self._journal.flush()
            raise TurnLost(str(error)) from error
        except PromptRejected as error:
            await self._fail(RunErrorCode.INVALID_PROMPT, str(error))
        except OutputInvalid as error:
            self.status = replace(self.status, usage=self._used() + error.usage)
            await self._fail(RunErrorCode.OUTPUT_INVALID, str(error))
        except EngineError as error:
            await self._fail(RunErrorCode.SERVER_ERROR, str(error))
        except InputLimitExceeded:
            await self._end_incomplete(RunIncompleteReason.MAX_INPUT_TOKENS)
        await self._journal.flush()

    async def fail(self, message: str) -> None:
        """Ends the run as failed by the server. Raises Fenced as `drive` does."""
        await self._fail(RunErrorCode.SERVER_ERROR, message)
        await self._journal.flush()

    async def stop(self, state: RunState) -> None:
        """Ends the run as cancelled or expired, with what it has said so far. Raises Fenced."""
        self._journal = Journal(self._store, self._claim.fence)  # the old one may have been refused
        await self._end(replace(self.status, state=state))
        await self._journal.flush()

    async def _turn(self) -> None:
        request = await self._request()
        first_turn = turns_made(self._claim.steps)
        async with aclosing(
            run_turns(self._engine, request, self._observer, first_turn=first_turn)
        ) as events:
            async for event in events:
                if isinstance(event, engine_events.TurnEnd):
                    await self._finish(event)
                else:
                    self._journal.append(*self._recorded(event))

    def _limit_reached(self) -> RunIncompleteReason | None:
        """The limit of the whole run that leaves nothing for another turn."""
        settings, used = self.run.settings, self._used()
        if turns_made(self._claim.steps) >= settings.max_turns:
            return RunIncompleteReason.MAX_TURNS
        if settings.max_output_tokens is not None and used.output_tokens >= settings.max_output_tokens:
            return RunIncompleteReason.MAX_OUTPUT_TOKENS
        if settings.max_input_tokens is not None and used.input_tokens >= settings.max_input_tokens:
            return RunIncompleteReason.MAX_INPUT_TOKENS
        return None

    async def _request(self) -> GenerateRequest:
        settings, used = self.run.settings, self._used()
        messages = await self._contexts.build(
            self.run, self._claim.steps, max_input_tokens=_left(settings.max_input_tokens, used.input_tokens)
        )
        if all(message.role is ChatRole.SYSTEM for message in messages):
            raise PromptRejected("The thread has no messages: create one before the run.")
        return GenerateRequest(
            messages=messages,
            tools=tuple(tool.function for tool in settings.tools if isinstance(tool, ClientFunction)),
            tool_choice=settings.tool_choice,
            parallel_tool_calls=settings.parallel_tool_calls,
            response_format=settings.response_format,
            effort=settings.effort,
            consensus=settings.consensus,
            sampling=settings.sampling,
            max_output_tokens=_left(settings.max_output_tokens, used.output_tokens),
            affinity=self.run.thread_id,
        )

    def _recorded(self, event: LoopEvent) -> Sequence[EventBody]:
        match event:
            case engine_events.TextDelta(text=text):
                return self._record.text(text)
            case engine_events.ReasoningDelta(text=text):
                return self._record.reasoning(text)
            case engine_events.ToolCallStart(name=name):
                return self._record.begin_call(name)
            case engine_events.ToolCallDelta(arguments_json=piece):
                return self._record.arguments(piece)
            case engine_events.ToolCallEnd():
                self._record.end_call()
                return ()
            case TurnStart() | engine_events.PromptProgress() | engine_events.LogprobsDelta():
                return ()
            case engine_events.TurnEnd():
                raise AssertionError("the end of a turn is taken by itself")

    async def _finish(self, end: engine_events.TurnEnd) -> None:
        self.finish_reason = end.finish_reason
        usage = self._used() + end.usage
        match end.finish_reason:
            case FinishReason.LENGTH:
                self.status = replace(self.status, usage=usage)
                await self._end_incomplete(RunIncompleteReason.MAX_OUTPUT_TOKENS, end)
            case FinishReason.STOP:
                now = datetime.now(UTC)
                end_time = not_before(now, self.status.start_time or now)
                self.outcome = replace(
                    self.status, state=RunState.COMPLETED, usage=usage, end_time=end_time, expire_time=None
                )
                self._journal.append(*self._record.whole(end), RunChanged(self.outcome))
            case FinishReason.TOOL_CALLS:
                self.outcome = replace(
                    self.status,
                    state=RunState.REQUIRES_ACTION,
                    required_action=self._record.calls,
                    usage=usage,
                    expire_time=datetime.now(UTC) + timedelta(seconds=self.run.settings.ttl_s),
                )
                self._journal.append(*self._record.whole(end), RunChanged(self.outcome))

    async def _fail(self, code: RunErrorCode, message: str) -> None:
        await self._end(
            replace(self.status, state=RunState.FAILED, error=RunError(code=code, message=message))
        )

    async def _end_incomplete(
        self, reason: RunIncompleteReason, end: engine_events.TurnEnd | None = None
    ) -> None:
        await self._end(replace(self.status, state=RunState.INCOMPLETE, incomplete_reason=reason), end)

    async def _end(self, status: RunStatus, end: engine_events.TurnEnd | None = None) -> None:
        """Ends short of completion; `status` has the final state."""
        lost = await self._lost_messages()
        self.outcome = status
        self._journal.append(*self._record.cut_short(status, end, lost))

    async def _lost_messages(self) -> Sequence[Message]:
        """The half messages of earlier attempts that this one has not begun again."""
        if not self._record.has_lost_messages:
            return ()
        return [
            message
            for message in await replay_messages(self._event_log, self.run.id)
            if message.state is MessageState.IN_PROGRESS and message.id != self._record.message_id
        ]

    def _used(self) -> Usage:
        return self.status.usage or Usage()


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else limit - used
