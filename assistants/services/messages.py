"""MessageService over gRPC."""

from typing import Any, TypeAlias

import grpc
from google.protobuf.empty_pb2 import Empty

from assistants.domain.errors import FeatureUnavailable, InvalidArgument, Violation
from assistants.domain.message import Message, MessageIncompleteReason, MessageState, NewMessage
from assistants.domain.names import message_name, parse_message, parse_run, parse_thread, run_name
from assistants.operations.messages import MessageOperations
from assistants.services.convert import (
    assistant_name_or_empty,
    content_from_proto,
    part_to_proto,
    role_from_proto,
    role_to_proto,
    to_timestamp,
)
from assistants.services.paging import next_page_token, page_request
from assistants.services.principal import PRINCIPAL
from assistants.services.requests import check_required, masked_fields, request_key, within
from assistants.v1 import message_service_pb2 as pb
from assistants.v1 import message_service_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs only

_STATES = {
    MessageState.IN_PROGRESS: pb.Message.STATE_IN_PROGRESS,
    MessageState.INCOMPLETE: pb.Message.STATE_INCOMPLETE,
    MessageState.COMPLETED: pb.Message.STATE_COMPLETED,
}
_REASONS = {
    MessageIncompleteReason.MAX_OUTPUT_TOKENS: pb.Message.INCOMPLETE_REASON_MAX_OUTPUT_TOKENS,
    MessageIncompleteReason.RUN_CANCELLED: pb.Message.INCOMPLETE_REASON_RUN_CANCELLED,
    MessageIncompleteReason.RUN_EXPIRED: pb.Message.INCOMPLETE_REASON_RUN_EXPIRED,
    MessageIncompleteReason.RUN_FAILED: pb.Message.INCOMPLETE_REASON_RUN_FAILED,
    MessageIncompleteReason.ATTEMPT_LOST: pb.Message.INCOMPLETE_REASON_ATTEMPT_LOST,
}
_IGNORED = (
    "name",
    "role",
    "content",
    "state",
    "incomplete_reason",
    "assistant",
    "run",
    "create_time",
    "end_time",
)


class MessageServicer(pb_grpc.MessageServiceServicer):
    """Maps requests to operations."""

    def __init__(self, operations: MessageOperations) -> None:
        self._operations = operations

    async def CreateMessage(self, request: pb.CreateMessageRequest, context: Context) -> pb.Message:  # noqa: D102
        check_required(request)
        thread_id = parse_thread(request.parent, "parent")
        key = request_key("CreateMessage", request, request.request_id)
        with within("message"):
            message = await self._operations.create(
                PRINCIPAL.get(), thread_id, new_message_from_proto(request.message), request=key
            )
        return message_to_proto(message)

    async def GetMessage(self, request: pb.GetMessageRequest, context: Context) -> pb.Message:  # noqa: D102
        check_required(request)
        return message_to_proto(await self._operations.get(PRINCIPAL.get(), *parse_message(request.name)))

    async def ListMessages(  # noqa: D102
        self, request: pb.ListMessagesRequest, context: Context
    ) -> pb.ListMessagesResponse:
        check_required(request)
        thread_id = parse_thread(request.parent, "parent")
        run_id = _run_filter(request.run, thread_id) if request.run else None
        page = await self._operations.list(
            PRINCIPAL.get(), thread_id, page_request(request, request.order_by), run_id=run_id
        )
        return pb.ListMessagesResponse(
            messages=[message_to_proto(message) for message in page.items],
            next_page_token=next_page_token(request, page.next),
        )

    async def UpdateMessage(self, request: pb.UpdateMessageRequest, context: Context) -> pb.Message:  # noqa: D102
        path = parse_message(request.message.name, "message.name")
        fields = masked_fields(request.update_mask, request.message, ("metadata",), _IGNORED)
        given = dict(request.message.metadata)
        with within("message"):
            message = await self._operations.update(
                PRINCIPAL.get(), *path, lambda metadata: given if "metadata" in fields else metadata
            )
        return message_to_proto(message)

    async def DeleteMessage(self, request: pb.DeleteMessageRequest, context: Context) -> Empty:  # noqa: D102
        check_required(request)
        await self._operations.delete(PRINCIPAL.get(), *parse_message(request.name))
        return Empty()


def new_message_from_proto(message: pb.Message) -> NewMessage:
    """What a client chose. Raises InvalidArgument, FeatureUnavailable."""
    if message.attachments:
        raise FeatureUnavailable("attachments[0]", "a file with a message")
    return NewMessage(
        role=role_from_proto(message.role),
        content=content_from_proto(message.content),
        metadata=dict(message.metadata),
    )


def message_to_proto(message: Message) -> pb.Message:
    """A stored message."""
    reason = message.incomplete_reason
    return pb.Message(
        name=message_name(message.thread_id, message.id),
        role=role_to_proto(message.role),
        content=[part_to_proto(part) for part in message.content],
        state=_STATES[message.state],
        incomplete_reason=pb.Message.INCOMPLETE_REASON_UNSPECIFIED if reason is None else _REASONS[reason],
        assistant=assistant_name_or_empty(message.assistant_id),
        run=run_name(message.thread_id, message.run_id) if message.run_id else "",
        metadata=message.metadata,
        create_time=to_timestamp(message.create_time),
        end_time=to_timestamp(message.end_time),
    )


def _run_filter(name: str, thread_id: str) -> str:
    run = parse_run(name, "run")
    if run.thread_id != thread_id:
        raise InvalidArgument(Violation("run", f"must be a run of the thread {thread_id!r}, got {name!r}"))
    return run.id
