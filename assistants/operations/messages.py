"""Messages: create, get, list, update, delete."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from assistants.domain.errors import NotFound
from assistants.domain.ids import new_id
from assistants.domain.message import Message, MessageState, NewMessage
from assistants.domain.names import message_name, thread_name
from assistants.domain.page import Page, PageRequest
from assistants.domain.ports import MessageRepository, RequestKey, ThreadRepository
from assistants.domain.principal import Principal
from assistants.domain.validation import Violations


class MessageOperations:
    """Acts on the messages of the caller's project."""

    def __init__(self, repository: MessageRepository, threads: ThreadRepository) -> None:
        self._repository = repository
        self._threads = threads

    async def create(
        self, principal: Principal, thread_id: str, new: NewMessage, *, request: RequestKey | None = None
    ) -> Message:
        """Appends a message. Raises InvalidArgument, NotFound, RunActive."""
        check_message(new)
        return await self._repository.create(make_message(principal, thread_id, new), request)

    async def get(self, principal: Principal, thread_id: str, message_id: str) -> Message:
        """Raises NotFound."""
        message = await self._repository.get(principal.project_id, thread_id, message_id)
        if message is None:
            raise NotFound("message", message_name(thread_id, message_id))
        return message

    async def list(
        self, principal: Principal, thread_id: str, page: PageRequest, *, run_id: str | None = None
    ) -> Page[Message]:
        """One page. Raises NotFound when there is no such thread."""
        if await self._threads.get(principal.project_id, thread_id) is None:
            raise NotFound("thread", thread_name(thread_id))
        return await self._repository.list(principal.project_id, thread_id, page, run_id=run_id)

    async def update(
        self,
        principal: Principal,
        thread_id: str,
        message_id: str,
        change: Callable[[Mapping[str, str]], Mapping[str, str]],
    ) -> Message:
        """Changes the metadata. Raises NotFound, InvalidArgument."""
        message = await self.get(principal, thread_id, message_id)
        metadata = change(message.metadata)
        if metadata == message.metadata:  # writing it back could undo somebody else's change
            return message
        violations = Violations()
        violations.metadata(metadata)
        violations.check()
        changed = await self._repository.set_metadata(principal.project_id, thread_id, message_id, metadata)
        if changed is None:  # deleted in between
            raise NotFound("message", message_name(thread_id, message_id))
        return changed

    async def delete(self, principal: Principal, thread_id: str, message_id: str) -> None:
        """Deletes it. Raises NotFound, RunActive."""
        if not await self._repository.delete(principal.project_id, thread_id, message_id):
            raise NotFound("message", message_name(thread_id, message_id))


def check_message(new: NewMessage) -> None:
    """Raises InvalidArgument with every rule that the message breaks."""
    violations = Violations()
    violations.content(new.role, new.content)
    violations.metadata(new.metadata)
    violations.check()


def make_message(principal: Principal, thread_id: str, new: NewMessage) -> Message:
    """A whole message, ready to be stored."""
    now = datetime.now(UTC)
    return Message(
        id=new_id("msg"),
        project_id=principal.project_id,
        thread_id=thread_id,
        role=new.role,
        content=new.content,
        state=MessageState.COMPLETED,
        metadata=new.metadata,
        create_time=now,
        end_time=now,
    )
