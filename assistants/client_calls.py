"""How calls are made: with the caller's trace, and patient with a server that is away."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from typing import Protocol, TypeVar

import grpc
from opentelemetry import propagate

from assistants.client_errors import error_of
from assistants.domain.errors import Unavailable
from assistants.v1 import thread_transfer_service_pb2

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 2.0
_PIECE_BYTES = 256 << 10

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)


class Method(Protocol[Request, Response]):
    """A unary rpc of a generated stub."""

    def __call__(
        self, request: Request, *, timeout: float | None, metadata: tuple[tuple[str, str], ...]
    ) -> Awaitable[Response]:
        """Calls it."""
        ...


class Patience:
    """Waits longer and longer for a server that is away, and not for ever."""

    def __init__(self, patience_s: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + patience_s
        self._delay_s = _FIRST_DELAY_S

    async def spend_on(self, error: grpc.aio.AioRpcError) -> None:
        """Waits before another try. Raises the error in our words when there is none to be made."""
        told = error_of(error)
        if told is None:
            raise error
        if not isinstance(told, Unavailable):
            raise told from error
        delay_s = max(told.retry_after_s, self._delay_s * random.uniform(0.7, 1.3))
        if asyncio.get_running_loop().time() + delay_s > self._deadline:
            raise told from error
        await asyncio.sleep(delay_s)
        self._delay_s = min(self._delay_s * 2, _LONGEST_DELAY_S)


async def answer(
    method: Method[Request, Response], request: Request, *, timeout_s: float | None, patience_s: float
) -> Response:
    """The answer to a call that may be made again.

    Args:
        method: the rpc.
        request: what it is sent.
        timeout_s: how long one try may take; None is as long as it takes.
        patience_s: how long to try.
    """
    patience = Patience(patience_s)
    while True:
        try:
            return await method(request, timeout=timeout_s, metadata=trace_metadata())
        except grpc.aio.AioRpcError as error:
            await patience.spend_on(error)


async def import_requests(
    data: bytes, *, new_ids: bool, request_id: str
) -> AsyncIterator[thread_transfer_service_pb2.ImportThreadRequest]:
    """The requests that upload the lines of a thread."""
    for start in range(0, max(len(data), 1), _PIECE_BYTES):
        yield thread_transfer_service_pb2.ImportThreadRequest(
            data=data[start : start + _PIECE_BYTES], new_ids=new_ids, request_id=request_id
        )


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """The caller's trace context, as the configured propagators write it."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())
