"""Runs: create, get, list, update, cancel, watch, and their steps."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from assistants.domain.assistant import Assistant
from assistants.domain.errors import (
    FeatureUnavailable,
    InvalidArgument,
    NoActionRequired,
    NotFound,
    RunEnded,
    Violation,
)
from assistants.domain.ids import new_id
from assistants.domain.message import Message, NewMessage
from assistants.domain.names import assistant_name, run_name, step_name, thread_name
from assistants.domain.page import Page, PageRequest
from assistants.domain.ports import (
    AssistantRepository,
    QueuedRun,
    RequestKey,
    RunQueue,
    RunStore,
    ThreadRepository,
)
from assistants.domain.principal import Principal
from assistants.domain.run import (
    DEFAULT_MAX_TURNS,
    DEFAULT_TTL_S,
    AutoTruncation,
    ConcurrencyPolicy,
    LastMessages,
    Run,
    RunSettings,
    RunStatus,
    Truncation,
)
from assistants.domain.run_claim import first_claim
from assistants.domain.run_event import RunEvent
from assistants.domain.run_states import RunState
from assistants.domain.run_step import RunStep
from assistants.domain.tool import Tool
from assistants.domain.validation import MAX_INSTRUCTIONS, Violations
from assistants.operations.available import check_run
from assistants.operations.messages import check_message, make_message
from assistants.operations.models import ModelOperations
from assistants.runs.executor import RunExecutor
from assistants.runs.watch import Watch
from assistants.telemetry.observer import current_traceparent
from runtime.types import Effort, ResponseFormat, Sampling, ToolChoice, ToolChoiceMode

MAX_TTL_S = 30 * 24 * 3600
MAX_ADDITIONAL_MESSAGES = 32
MAX_TOOLS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """What a client chooses about a run; None is the assistant's choice."""

    assistant_id: str
    model: str | None = None
    instructions: str | None = None
    additional_instructions: str = ""
    additional_messages: tuple[NewMessage, ...] = ()
    tools: tuple[Tool, ...] | None = None
    tool_choice: ToolChoice = ToolChoiceMode.AUTO
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    effort: Effort | None = None
    sampling: Sampling = field(default_factory=Sampling)
    consensus: int = 1
    concurrency: ConcurrencyPolicy = ConcurrencyPolicy.REJECT
    max_turns: int = DEFAULT_MAX_TURNS
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    truncation: Truncation = field(default_factory=AutoTruncation)
    include_reasoning: bool = False
    ttl_s: float = DEFAULT_TTL_S
    metadata: Mapping[str, str] = field(default_factory=dict)


class RunOperations:
    """Acts on the runs of the caller's project."""

    def __init__(
        self,
        *,
        store: RunStore,
        assistants: AssistantRepository,
        threads: ThreadRepository,
        models: ModelOperations,
        executor: RunExecutor,
        queue: RunQueue,
        watch: Watch,
    ) -> None:
        self._store = store
        self._assistants = assistants
        self._threads = threads
        self._models = models
        self._executor = executor
        self._queue = queue
        self._watch = watch
        self._launching: dict[str, asyncio.Task[Run]] = {}
        """By thread: runs that are being committed and executed at the same time."""

    async def create(
        self, principal: Principal, thread_id: str, new: NewRun, *, request: RequestKey | None = None
    ) -> Run:
        """Creates a run, and executes it at once if a slot is free.

        Raises InvalidArgument, FeatureUnavailable, NotFound, RunActive.
        """
        _check(new)
        run = await self._prepare(principal, thread_id, new)
        messages = [make_message(principal, thread_id, message) for message in new.additional_messages]
        # A caller who goes away must not leave a run that is stored and not launched.
        return await asyncio.shield(self._store_and_launch(run, messages, request))

    async def _store_and_launch(
        self, run: Run, messages: Sequence[Message], request: RequestKey | None
    ) -> Run:
        while (other := self._launching.get(run.thread_id)) is not None:
            await asyncio.wait((other,))  # whoever came first has the thread
        busy = await self._store.active(run.project_id, run.thread_id) is not None
        if busy or not self._executor.reserve():
            stored = await self._store.create(run, messages, request, claim=None)
            if stored.id == run.id:
                await self._queue.put(QueuedRun(run_id=run.id, takeover=False))
            return stored
        claim = first_claim(run)
        # The engine reads the prompt while the run is being committed. Whatever the
        # execution writes stands behind the create, and is fenced if that fails.
        creating = asyncio.create_task(self._store.create(run, messages, request, claim=claim))
        self._executor.launch(claim, stored=creating if messages else None)
        made: Run | None = None
        self._launching[run.thread_id] = creating
        try:
            made = await creating
            return made
        finally:
            del self._launching[run.thread_id]
            if made is None or made.id != run.id:  # refused, or made before under the request id
                self._executor.stop(run.id)

    async def get(self, principal: Principal, thread_id: str, run_id: str) -> Run:
        """Raises NotFound."""
        run = await self._store.get(principal.project_id, run_id)
        if run is None or run.thread_id != thread_id:
            raise NotFound("run", run_name(thread_id, run_id))
        return run

    async def list(self, principal: Principal, thread_id: str | None, page: PageRequest) -> Page[Run]:
        """One page, of one thread or of all. Raises NotFound when there is no such thread."""
        if thread_id is not None:
            await self._require_thread(principal, thread_id)
        return await self._store.list(principal.project_id, thread_id, page)

    async def update(
        self,
        principal: Principal,
        thread_id: str,
        run_id: str,
        change: Callable[[Mapping[str, str]], Mapping[str, str]],
    ) -> Run:
        """Changes the metadata. Raises NotFound, InvalidArgument."""
        run = await self.get(principal, thread_id, run_id)
        metadata = change(run.metadata)
        if metadata == run.metadata:  # writing it back could undo somebody else's change
            return run
        violations = Violations()
        violations.metadata(metadata)
        violations.check()
        changed = await self._store.set_metadata(principal.project_id, run_id, metadata)
        if changed is None:  # deleted in between
            raise NotFound("run", run_name(thread_id, run_id))
        return changed

    async def cancel(self, principal: Principal, thread_id: str, run_id: str) -> Run:
        """Stops a run. Raises NotFound, RunEnded."""
        before = await self.get(principal, thread_id, run_id)
        if before.status.state.final:
            raise RunEnded(run=run_name(thread_id, run_id), state=before.status.state)
        run = await self._store.end_idle(principal.project_id, run_id, expired=False)
        if run is None:  # deleted in between
            raise NotFound("run", run_name(thread_id, run_id))
        if run.status.state is RunState.CANCELLING:
            self._executor.stop(run_id)
        elif run.status.state is not RunState.CANCELLED:  # it ended by itself in between
            raise RunEnded(run=run_name(thread_id, run_id), state=run.status.state)
        return run

    async def cancel_and_wait(self, principal: Principal, thread_id: str, run_id: str) -> None:
        """Stops a run and waits for its end; one that has ended is as good."""
        try:
            run = await self.cancel(principal, thread_id, run_id)
            async with aclosing(self._watch.follow(run, after=run.last_sequence)) as events:
                async for _ in events:
                    pass
        except (NotFound, RunEnded):
            return

    async def submit_tool_outputs(self, principal: Principal, thread_id: str, run_id: str) -> Run:
        """Raises NoActionRequired: no run of this version waits for outputs."""
        run = await self.get(principal, thread_id, run_id)
        raise NoActionRequired(run=run_name(thread_id, run_id), state=run.status.state)

    def follow(self, run: Run) -> AsyncGenerator[RunEvent]:
        """All events of a run until the final one."""
        return self._watch.follow(run, after=0)

    async def watch(
        self, principal: Principal, thread_id: str, run_id: str, *, after: int
    ) -> tuple[Run, AsyncGenerator[RunEvent]]:
        """The run, and its events after a sequence until the final one. Raises NotFound, InvalidArgument."""
        run = await self.get(principal, thread_id, run_id)
        if not 0 <= after <= run.last_sequence:
            rule = f"must be between 0 and the run's last sequence {run.last_sequence}, got {after}"
            raise InvalidArgument(Violation("after_sequence", rule))
        return run, self._watch.follow(run, after=after)

    async def get_step(self, principal: Principal, thread_id: str, run_id: str, step_id: str) -> RunStep:
        """Raises NotFound."""
        step = await self._store.get_step(principal.project_id, run_id, step_id)
        if step is None or step.thread_id != thread_id:
            raise NotFound("run step", step_name(thread_id, run_id, step_id))
        return step

    async def list_steps(
        self, principal: Principal, thread_id: str, run_id: str, page: PageRequest
    ) -> Page[RunStep]:
        """One page. Raises NotFound when there is no such run."""
        await self.get(principal, thread_id, run_id)
        return await self._store.list_steps(principal.project_id, run_id, page)

    async def _require_thread(self, principal: Principal, thread_id: str) -> None:
        if await self._threads.get(principal.project_id, thread_id) is None:
            raise NotFound("thread", thread_name(thread_id))

    async def _prepare(self, principal: Principal, thread_id: str, new: NewRun) -> Run:
        """The queued run with the assistant's settings copied. Nothing is stored yet."""
        assistant = await self._assistants.get(principal.project_id, new.assistant_id)
        if assistant is None:
            raise NotFound("assistant", assistant_name(new.assistant_id))
        settings = self._settings(assistant, new)
        check_run(settings)
        now = datetime.now(UTC)
        return Run(
            id=new_id("run"),
            project_id=principal.project_id,
            thread_id=thread_id,
            assistant_id=assistant.id,
            settings=settings,
            status=RunStatus(state=RunState.QUEUED, expire_time=now + timedelta(seconds=settings.ttl_s)),
            metadata=new.metadata,
            create_time=now,
            traceparent=current_traceparent(),
        )

    def _settings(self, assistant: Assistant, new: NewRun) -> RunSettings:
        """The assistant's settings; what the request sets wins."""
        base = assistant.settings
        model = base.model if new.model is None else new.model
        instructions = base.instructions if new.instructions is None else new.instructions
        sampling = _merged(new.sampling, base.sampling)
        self._models.check_settings(model, sampling)
        return RunSettings(
            model=model,
            agent_name=base.display_name,
            instructions="\n\n".join(filter(None, (instructions, new.additional_instructions))),
            tools=base.tools if new.tools is None else new.tools,
            tool_choice=new.tool_choice,
            parallel_tool_calls=new.parallel_tool_calls,
            response_format=base.response_format if new.response_format is None else new.response_format,
            effort=new.effort or base.effort or self._models.effort_of(model),
            sampling=sampling,
            consensus=new.consensus,
            concurrency=new.concurrency,
            max_turns=new.max_turns,
            max_input_tokens=new.max_input_tokens,
            max_output_tokens=new.max_output_tokens,
            truncation=new.truncation,
            include_reasoning=new.include_reasoning,
            ttl_s=new.ttl_s,
        )


def _merged(chosen: Sampling, base: Sampling) -> Sampling:
    return Sampling(
        temperature=base.temperature if chosen.temperature is None else chosen.temperature,
        top_p=base.top_p if chosen.top_p is None else chosen.top_p,
        seed=base.seed if chosen.seed is None else chosen.seed,
    )


def _check(new: NewRun) -> None:
    violations = Violations()
    violations.length("instructions", new.instructions or "", most=MAX_INSTRUCTIONS)
    violations.length("additional_instructions", new.additional_instructions, most=MAX_INSTRUCTIONS)
    violations.count("additional_messages", new.additional_messages, most=MAX_ADDITIONAL_MESSAGES)
    violations.count("tools", new.tools or (), most=MAX_TOOLS)
    violations.sampling(new.sampling)
    violations.between("consensus", new.consensus, 1, 64)
    violations.between("max_turns", new.max_turns, 1, 1000)
    violations.between("max_input_tokens", new.max_input_tokens, 1, 2**53)
    violations.between("max_output_tokens", new.max_output_tokens, 1, 2**53)
    violations.between("ttl", new.ttl_s, 1, MAX_TTL_S)
    if isinstance(new.truncation, LastMessages):
        violations.between("truncation_strategy.last_messages", new.truncation.count, 1, 2**31 - 1)
    violations.metadata(new.metadata)
    violations.check()
    for index, message in enumerate(new.additional_messages):
        try:
            check_message(message)
        except (InvalidArgument, FeatureUnavailable) as error:
            raise error.within(f"additional_messages[{index}]") from error
