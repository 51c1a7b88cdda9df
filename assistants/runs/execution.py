"""One execution of a run: drives the loop and journals what it yields, until the run ends or pauses."""

from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime

from assistants.domain.content import ContentPart, ReasoningPart, Role, TextPart
from assistants.domain.ids import new_id
from assistants.domain.message import Message, MessageState
from assistants.domain.ports import Claim, EventLog, RunStore
from assistants.domain.run import RunError, RunErrorCode, RunIncompleteReason, RunStatus
from assistants.domain.run_ending import ending
from assistants.domain.run_event import MessageChanged, RunChanged, StepChanged, TextDelta
from assistants.domain.run_states import RunState
from assistants.domain.run_step import MessageCreation, RunStep, StepState
from assistants.runs.context import InputLimitExceeded, ThreadContexts
from assistants.runs.journal import Journal
from assistants.runs.replay import replay_messages
from runtime import events as engine_events
from runtime.engines.base import Engine
from runtime.errors import EngineError, EngineUnavailable, PromptRejected
from runtime.loop import TurnStart, run_turns
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
        """How it ended, once that is journalled or on its way there."""
        self.finish_reason: FinishReason | None = None
        """Why the last generation stopped."""
        self._claim = claim
        self._store = store
        self._event_log = event_log
        self._contexts = contexts
        self._engine = engine
        self._observer = observer
        self._journal = Journal(store, claim.fence)
        # As they are in the store: an end that is refused leaves them open.
        self._steps = list(claim.steps)
        self._message: Message | None = None
        self._reasoning: list[str] = []
        self._text: list[str] = []

    async def drive(self) -> None:
        """Carries the run out.

        Raises:
            TurnLost: the engine died after it had spoken.
            Fenced: the run was stopped, or has a newer attempt.
            asyncio.CancelledError: whoever executes was told to stop; nothing is written.
        """
        try:
            request = await self._request()
            async with aclosing(run_turns(self._engine, request, self._observer)) as turn:
                async for event in turn:
                    self._take(event)
        except EngineUnavailable as error:
            await self._journal.flush()
            raise TurnLost(str(error)) from error
        except PromptRejected as error:
            self._fail(RunErrorCode.INVALID_PROMPT, str(error))
        except EngineError as error:
            self._fail(RunErrorCode.SERVER_ERROR, str(error))
        except InputLimitExceeded:
            self._end(
                replace(
                    self.status,
                    state=RunState.INCOMPLETE,
                    incomplete_reason=RunIncompleteReason.MAX_INPUT_TOKENS,
                )
            )
        await self._journal.flush()

    async def fail(self, message: str) -> None:
        """Ends the run as failed by the server. Raises Fenced as `drive` does."""
        await self._recall()
        self._fail(RunErrorCode.SERVER_ERROR, message)
        await self._journal.flush()

    async def stop(self, state: RunState) -> None:
        """Ends the run as cancelled or expired, with what it has said so far. Raises Fenced."""
        await self._recall()
        self._journal = Journal(self._store, self._claim.fence)  # the old one may have been refused
        self._end(replace(self.status, state=state))
        await self._journal.flush()

    async def _recall(self) -> None:
        """Gets back the half message of an attempt that somebody else made."""
        if self._message is None and any(step.state is StepState.IN_PROGRESS for step in self._steps):
            for message in await replay_messages(self._event_log, self.run.id):
                if message.state is MessageState.IN_PROGRESS:
                    self._message = message
                    self._text = [message.text]

    async def _request(self) -> GenerateRequest:
        settings = self.run.settings
        messages = await self._contexts.build(self.run)
        if all(message.role is ChatRole.SYSTEM for message in messages):
            raise PromptRejected("The thread has no messages: create one before the run.")
        return GenerateRequest(
            messages=messages,
            response_format=settings.response_format,
            effort=settings.effort,
            sampling=settings.sampling,
            max_output_tokens=settings.max_output_tokens,
        )

    def _take(self, event: TurnStart | engine_events.EngineEvent) -> None:
        match event:
            case engine_events.TextDelta(text=text):
                message = self._message or self._begin_message()
                self._text.append(text)
                self._journal.append(TextDelta(message.id, 1 if self._reasoning else 0, text))
            case engine_events.ReasoningDelta(text=text):
                if self.run.settings.include_reasoning:
                    message = self._message or self._begin_message()
                    self._reasoning.append(text)
                    self._journal.append(TextDelta(message.id, 0, text, reasoning=True))
            case engine_events.TurnEnd(finish_reason=reason, usage=usage):
                self.finish_reason = reason
                if reason is FinishReason.LENGTH:
                    self._end_at_limit(usage)
                else:
                    self._complete(usage)
            case TurnStart() | engine_events.PromptProgress():
                pass
            case engine_events.ToolCallStart() | engine_events.ToolCallDelta() | engine_events.ToolCallEnd():
                raise AssertionError("the loop lets no tool call pass when there are no tools")

    def _begin_message(self) -> Message:
        """Begins the step and its message, or, after a lost attempt, begins the same ones again."""
        now = datetime.now(UTC)
        last = self._steps[-1] if self._steps else None
        if last and last.state is StepState.IN_PROGRESS and isinstance(last.details, MessageCreation):
            step = replace(last, attempt=self.status.attempt)
            self._steps[-1] = step
            message_id, create_time = last.details.message_id, last.create_time
        else:
            message_id, create_time = new_id("msg"), now
            step = RunStep(
                id=new_id("step"),
                project_id=self.run.project_id,
                thread_id=self.run.thread_id,
                run_id=self.run.id,
                index=len(self._steps),
                state=StepState.IN_PROGRESS,
                details=MessageCreation(message_id=message_id),
                attempt=self.status.attempt,
                create_time=now,
            )
            self._steps.append(step)
        self._message = Message(
            id=message_id,
            project_id=self.run.project_id,
            thread_id=self.run.thread_id,
            role=Role.ASSISTANT,
            content=(),
            state=MessageState.IN_PROGRESS,
            assistant_id=self.run.assistant_id,
            run_id=self.run.id,
            create_time=create_time,
        )
        self._journal.append(StepChanged(step), MessageChanged(self._message))
        return self._message

    def _complete(self, usage: Usage) -> None:
        message = self._message or self._begin_message()
        now = datetime.now(UTC)
        step = replace(self._steps[-1], state=StepState.COMPLETED, usage=usage, end_time=now)
        self.outcome = replace(
            self.status,
            state=RunState.COMPLETED,
            usage=(self.status.usage or Usage()) + usage,
            end_time=now,
            expire_time=None,
        )
        self._journal.append(
            MessageChanged(
                replace(message, content=self._content(), state=MessageState.COMPLETED, end_time=now)
            ),
            StepChanged(step),
            RunChanged(self.outcome),
        )

    def _end_at_limit(self, usage: Usage) -> None:
        if self._message is None:
            self._begin_message()
        self._steps[-1] = replace(self._steps[-1], usage=usage)
        self._end(
            replace(
                self.status,
                state=RunState.INCOMPLETE,
                incomplete_reason=RunIncompleteReason.MAX_OUTPUT_TOKENS,
                usage=(self.status.usage or Usage()) + usage,
            )
        )

    def _fail(self, code: RunErrorCode, message: str) -> None:
        self._end(replace(self.status, state=RunState.FAILED, error=RunError(code=code, message=message)))

    def _end(self, status: RunStatus) -> None:
        """Ends short of completion; `status` has the final state."""
        message = self._message and replace(self._message, content=self._content())
        self.outcome = status
        self._journal.append(*ending(status, self._steps, [message] if message else [], datetime.now(UTC)))

    def _reasoning_parts(self) -> tuple[ContentPart, ...]:
        return (ReasoningPart(text="".join(self._reasoning)),) if self._reasoning else ()

    def _content(self) -> tuple[ContentPart, ...]:
        return (*self._reasoning_parts(), TextPart(value="".join(self._text)))
