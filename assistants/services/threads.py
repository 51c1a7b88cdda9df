"""ThreadService over gRPC."""

from typing import Any, TypeAlias

import grpc
from google.protobuf.empty_pb2 import Empty

from assistants.domain.names import parse_thread, thread_name
from assistants.domain.thread import Thread
from assistants.operations.editing import etag_of
from assistants.operations.threads import ThreadOperations
from assistants.services.convert import to_timestamp
from assistants.services.paging import next_page_token, page_request
from assistants.services.principal import PRINCIPAL
from assistants.services.requests import check_required, masked_fields, request_key, within
from assistants.v1 import thread_service_pb2 as pb
from assistants.v1 import thread_service_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs only


class ThreadServicer(pb_grpc.ThreadServiceServicer):
    """Maps requests to operations."""

    def __init__(self, operations: ThreadOperations) -> None:
        self._operations = operations

    async def CreateThread(self, request: pb.CreateThreadRequest, context: Context) -> pb.Thread:  # noqa: D102
        key = request_key("CreateThread", request, request.request_id)
        with within("thread"):
            thread = await self._operations.create(
                PRINCIPAL.get(), dict(request.thread.metadata), request=key
            )
        return thread_to_proto(thread)

    async def GetThread(self, request: pb.GetThreadRequest, context: Context) -> pb.Thread:  # noqa: D102
        check_required(request)
        return thread_to_proto(await self._operations.get(PRINCIPAL.get(), parse_thread(request.name)))

    async def ListThreads(  # noqa: D102
        self, request: pb.ListThreadsRequest, context: Context
    ) -> pb.ListThreadsResponse:
        page = await self._operations.list(PRINCIPAL.get(), page_request(request, request.order_by))
        return pb.ListThreadsResponse(
            threads=[thread_to_proto(thread) for thread in page.items],
            next_page_token=next_page_token(request, page.next),
        )

    async def UpdateThread(self, request: pb.UpdateThreadRequest, context: Context) -> pb.Thread:  # noqa: D102
        thread_id = parse_thread(request.thread.name, "thread.name")
        ignored = ("name", "create_time", "update_time", "etag")
        fields = masked_fields(request.update_mask, request.thread, ("metadata",), ignored)
        given = dict(request.thread.metadata)
        with within("thread"):
            thread = await self._operations.update(
                PRINCIPAL.get(),
                thread_id,
                lambda metadata: given if "metadata" in fields else metadata,
                etag=request.thread.etag,
            )
        return thread_to_proto(thread)

    async def DeleteThread(self, request: pb.DeleteThreadRequest, context: Context) -> Empty:  # noqa: D102
        check_required(request)
        await self._operations.delete(
            PRINCIPAL.get(), parse_thread(request.name), etag=request.etag, force=request.force
        )
        return Empty()


def thread_to_proto(thread: Thread) -> pb.Thread:
    """A stored thread."""
    return pb.Thread(
        name=thread_name(thread.id),
        metadata=thread.metadata,
        create_time=to_timestamp(thread.create_time),
        update_time=to_timestamp(thread.update_time),
        etag=etag_of(thread),
    )
