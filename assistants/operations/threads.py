"""Threads: create, get, list, update, delete."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from assistants.domain.errors import NotFound, RunActive
from assistants.domain.names import parse_run, thread_name
from assistants.domain.page import Page, PageRequest
from assistants.domain.ports import RequestKey, ThreadRepository
from assistants.domain.principal import Principal
from assistants.domain.thread import Thread
from assistants.operations.editing import check_etag, edit
from assistants.operations.new_thread import NewThread, check_metadata, make_thread
from assistants.operations.runs import RunOperations


class ThreadOperations:
    """Acts on the threads of the caller's project."""

    def __init__(self, repository: ThreadRepository, runs: RunOperations) -> None:
        self._repository = repository
        self._runs = runs

    async def create(
        self, principal: Principal, metadata: Mapping[str, str], *, request: RequestKey | None = None
    ) -> Thread:
        """Creates an empty thread. Raises InvalidArgument."""
        check_metadata(metadata)
        return await self._repository.create(make_thread(principal, NewThread(metadata=metadata)), request)

    async def get(self, principal: Principal, thread_id: str) -> Thread:
        """Raises NotFound."""
        thread = await self._repository.get(principal.project_id, thread_id)
        if thread is None:
            raise NotFound("thread", thread_name(thread_id))
        return thread

    async def list(self, principal: Principal, page: PageRequest) -> Page[Thread]:
        """One page."""
        return await self._repository.list(principal.project_id, page)

    async def update(
        self,
        principal: Principal,
        thread_id: str,
        change: Callable[[Mapping[str, str]], Mapping[str, str]],
        *,
        etag: str = "",
    ) -> Thread:
        """Changes the metadata. Raises NotFound, InvalidArgument, EtagMismatch."""

        async def apply(thread: Thread) -> Thread:
            metadata = change(thread.metadata)
            check_metadata(metadata)
            return replace(
                thread, metadata=metadata, revision=thread.revision + 1, update_time=datetime.now(UTC)
            )

        return await edit(
            thread_name(thread_id),
            etag,
            read=lambda: self.get(principal, thread_id),
            change=apply,
            write=lambda changed, revision: self._repository.replace(changed, revision=revision),
        )

    async def delete(
        self, principal: Principal, thread_id: str, *, etag: str = "", force: bool = False
    ) -> None:
        """Deletes it with all that is in it; with `force`, its runs are cancelled first.

        Raises NotFound, EtagMismatch, RunActive.
        """
        while True:
            thread = await self.get(principal, thread_id)
            check_etag(thread_name(thread_id), thread, etag)
            revision = thread.revision if etag else None
            try:
                if await self._repository.delete(principal.project_id, thread_id, revision=revision):
                    return
            except RunActive as active:
                if not force:
                    raise
                await self._runs.cancel_all_and_wait(principal, *parse_run(active.run))
