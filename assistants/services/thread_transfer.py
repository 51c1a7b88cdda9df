"""ThreadTransferService over gRPC."""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from assistants.domain.errors import InvalidArgument, Violation
from assistants.domain.names import parse_thread
from assistants.operations.thread_transfer import MAX_BYTES, ThreadTransferOperations
from assistants.services.principal import PRINCIPAL
from assistants.services.requests import check_required
from assistants.services.threads import thread_to_proto
from assistants.v1 import thread_service_pb2
from assistants.v1 import thread_transfer_service_pb2 as pb
from assistants.v1 import thread_transfer_service_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs only

_PIECE_BYTES = 256 << 10


class ThreadTransferServicer(pb_grpc.ThreadTransferServiceServicer):
    """Maps requests to operations."""

    def __init__(self, operations: ThreadTransferOperations) -> None:
        self._operations = operations

    async def ExportThread(  # noqa: D102
        self, request: pb.ExportThreadRequest, context: Context
    ) -> AsyncIterator[pb.ExportThreadResponse]:
        check_required(request)
        lines = await self._operations.export(PRINCIPAL.get(), parse_thread(request.name))
        piece = bytearray()
        for line in lines:
            piece += line.encode() + b"\n"
            while len(piece) >= _PIECE_BYTES:
                yield pb.ExportThreadResponse(data=bytes(piece[:_PIECE_BYTES]))
                del piece[:_PIECE_BYTES]
        if piece:
            yield pb.ExportThreadResponse(data=bytes(piece))

    async def ImportThread(  # noqa: D102
        self, requests: AsyncIterator[pb.ImportThreadRequest], context: Context
    ) -> thread_service_pb2.Thread:
        data = bytearray()
        first: pb.ImportThreadRequest | None = None
        async for request in requests:
            first = first or request
            data += request.data
            if len(data) > MAX_BYTES:
                raise InvalidArgument(Violation("data", f"must have at most {MAX_BYTES} bytes in all"))
        options = first or pb.ImportThreadRequest()
        thread = await self._operations.import_(
            PRINCIPAL.get(), bytes(data), new_ids=options.new_ids, request_id=options.request_id
        )
        return thread_to_proto(thread)
