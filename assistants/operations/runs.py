"""Runs: create, get, list, update, cancel, watch, submit tool outputs, and their steps."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from assistants.domain.errors import (
    InvalidArgument,
    NotFound,
    RunEnded,
    Violation,
)
from assistants.domain.ids import new_id
from assistants.domain.message import Message
from assistants.domain.names import assistant_name, run_name, step_name, thread_name
from assistants.domain.page import Page, PageRequest
from assistants.domain.ports import (
    AssistantRepository,
    Claim,
    Created,
    QueuedRun,
    RequestKey,
    RunQueue,
    RunStore,
    Signals,
    ThreadRepository,
)
from assistants.domain.principal import Principal
from assistants.domain.run import (
    Run,
    RunStatus,
)
from assistants.domain.run_claim import first_claim
from assistants.domain.run_event import RunEvent
from assistants.domain.run_states import RunState
from assistants.domain.run_step import RunStep, without_reasoning
from assistants.domain.thread import Thread
from assistants.domain.tool import ToolOutput
from assistants.domain.validation import MAX_TOOL_OUTPUT, Violations
from assistants.operations.messages import make_message
from assistants.operations.models import ModelOperations
from assistants.operations.new_run import NewRun, check_new_run, run_settings
from assistants.operations.new_thread import NewThread, check_new_thread, make_thread
from assistants.operations.response_formats import check_response_format
from assistants.operations.tools import check_tools
from assistants.runs.executor import RunExecutor
from assistants.runs.watch import Watch
from assistants.telemetry.observer import current_traceparent


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
        signals: Signals,
        watch: Watch,
    ) -> None:
        self._store = store
        self._assistants = assistants
        self._threads = threads
        self._models = models
        self._executor = executor
        self._queue = queue
        self._signals = signals
        self._watch = watch
        self._launching: dict[str, asyncio.Task[Created]] = {}
        """By thread: runs that are being committed and executed at the same time."""
        self._queueing: set[asyncio.Task[None]] = set()
        store.on_admitted(self._admitted)

    async def create(
        self, principal: Principal, thread_id: str, new: NewRun, *, request: RequestKey | None = None
    ) -> Run:
        """Creates a run, and executes it at once if its thread and a slot are free.

        While the thread is held by another run, the policy of the run says what happens.

        Raises InvalidArgument, FeatureUnavailable, NotFound, RunActive, Overloaded.
        """
        check_new_run(new)
        run = await self._prepare(principal, thread_id, new)
        messages = [make_message(principal, thread_id, message) for message in new.additional_messages]
        # A caller who goes away must not leave a run that is stored and not launched.
        return await asyncio.shield(self._store_and_launch(run, messages, request))

    async def create_with_thread(
        self, principal: Principal, thread: NewThread, new: NewRun, *, request: RequestKey | None = None
    ) -> Run:
        """Creates a thread, its messages and a run in one transaction, and executes that as `create` does.

        Raises InvalidArgument, FeatureUnavailable, NotFound.
        """
        check_new_thread(thread)
        check_new_run(new)
        made = make_thread(principal, thread)
        run = await self._prepare(principal, made.id, new)
        messages = [make_message(principal, made.id, message) for message in thread.messages]
        return await asyncio.shield(self._store_and_launch(run, messages, request, thread=made))

    async def _store_and_launch(
        self,
        run: Run,
        messages: Sequence[Message],
        request: RequestKey | None,
        *,
        thread: Thread | None = None,
    ) -> Run:
        while (other := self._launching.get(run.thread_id)) is not None:
            await asyncio.wait((other,))  # whoever came first has the thread
        busy = thread is None and await self._store.active(run.project_id, run.thread_id) is not None
        if busy or not self._executor.reserve():
            created = await self._store.create(run, messages, request, claim=None, thread=thread)
            if created.run.id == run.id and not created.waits:
                await self._queue.put(QueuedRun(run_id=run.id, takeover=False))
            if (other_run := created.interrupted) is not None and not other_run.status.state.final:
                self._signals.stop(other_run.id)
            return created.run
        claim = first_claim(run)
        # The engine reads the prompt while the run is being committed. Whatever the
        # execution writes stands behind the create, and is fenced if that fails.
        creating = asyncio.create_task(self._store.create(run, messages, request, claim=claim, thread=thread))
        self._executor.launch(claim, stored=creating if messages or thread else None)
        taken = False
        self._launching[run.thread_id] = creating
        try:
            made = (await creating).run
            taken = made.id == run.id and made.status.attempt == 1
            return made
        finally:
            del self._launching[run.thread_id]
            if not taken:  # refused, made before under the request id, or another run was faster
                self._executor.stop(run.id)

    def _admitted(self, run_id: str) -> None:
        """A run that waited for its thread has got it."""
        task = asyncio.create_task(self._queue.put(QueuedRun(run_id=run_id, takeover=False)))
        self._queueing.add(task)
        task.add_done_callback(self._queueing.discard)

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
            self._signals.stop(run_id)
        elif run.status.state is not RunState.CANCELLED:  # it ended by itself in between
            raise RunEnded(run=run_name(thread_id, run_id), state=run.status.state)
        return run

    async def cancel_all_and_wait(self, principal: Principal, thread_id: str, run_id: str) -> None:
        """Stops a run and those that wait for its thread, and waits for its end if it has not ended."""
        for waiting_id in await self._store.waiting(principal.project_id, thread_id):
            await self._store.end_idle(principal.project_id, waiting_id, expired=False)
        try:
            run = await self.cancel(principal, thread_id, run_id)
            async with aclosing(self._watch.follow(run, after=run.last_sequence)) as events:
                async for _ in events:
                    pass
        except (NotFound, RunEnded):
            return

    async def submit_tool_outputs(
        self,
        principal: Principal,
        thread_id: str,
        run_id: str,
        outputs: Sequence[ToolOutput],
        *,
        request: RequestKey | None = None,
    ) -> Run:
        """Gives the outputs of all open calls, and executes the run further if a slot is free.

        Raises InvalidArgument, NotFound, NoActionRequired.
        """
        violations = Violations()
        for index, output in enumerate(outputs):
            violations.length(f"tool_outputs[{index}].output", output.output, most=MAX_TOOL_OUTPUT)
        violations.check()
        # A caller who goes away must not leave a run that is taken and not launched.
        return await asyncio.shield(self._submit_and_launch(principal, thread_id, run_id, outputs, request))

    async def _submit_and_launch(
        self,
        principal: Principal,
        thread_id: str,
        run_id: str,
        outputs: Sequence[ToolOutput],
        request: RequestKey | None,
    ) -> Run:
        run = await self.get(principal, thread_id, run_id)
        if run.status.state is RunState.REQUIRES_ACTION:
            await self._executor.left(run.id)  # the pause is told a moment before its execution is over
        reserved = self._executor.reserve()
        claim: Claim | None = None
        try:
            submitted = await self._store.submit(run, outputs, request, take=reserved)
            claim = submitted.claim
        finally:
            if reserved and claim is None:
                self._executor.release()
        if claim is not None:
            self._executor.launch(claim)
        elif submitted.run.status.state is RunState.QUEUED:
            await self._queue.put(QueuedRun(run_id=run.id, takeover=False))
        return submitted.run

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
        run = await self.get(principal, thread_id, run_id)
        return step if run.settings.include_reasoning else without_reasoning(step)

    async def list_steps(
        self, principal: Principal, thread_id: str, run_id: str, page: PageRequest
    ) -> Page[RunStep]:
        """One page. Raises NotFound when there is no such run."""
        run = await self.get(principal, thread_id, run_id)
        steps = await self._store.list_steps(principal.project_id, run_id, page)
        if run.settings.include_reasoning:
            return steps
        return replace(steps, items=tuple(without_reasoning(step) for step in steps.items))

    async def _require_thread(self, principal: Principal, thread_id: str) -> None:
        if await self._threads.get(principal.project_id, thread_id) is None:
            raise NotFound("thread", thread_name(thread_id))

    async def _prepare(self, principal: Principal, thread_id: str, new: NewRun) -> Run:
        """The queued run with the assistant's settings copied. Nothing is stored yet."""
        assistant = await self._assistants.get(principal.project_id, new.assistant_id)
        if assistant is None:
            raise NotFound("assistant", assistant_name(new.assistant_id))
        settings = run_settings(assistant, new, self._models)
        await check_tools(settings.tools, settings.tool_choice)
        await check_response_format(settings.response_format)
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
