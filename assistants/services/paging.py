"""Pages over gRPC: sizes, orders and opaque tokens bound to their request."""

import base64
import binascii
import json
from hashlib import sha256
from typing import Protocol

from google.protobuf.message import Message

from assistants.domain.errors import InvalidArgument, Violation
from assistants.domain.page import DEFAULT_SIZE, MAX_SIZE, Cursor, PageRequest
from assistants.domain.times import from_micros, to_micros

_ORDERS = {"": True, "create_time desc": True, "create_time": False, "create_time asc": False}


class ListRequest(Protocol):
    """What every list request has."""

    page_size: int
    page_token: str


def page_request(request: ListRequest, order_by: str = "") -> PageRequest:
    """The page that a request asks for. Raises InvalidArgument."""
    if request.page_size < 0:
        raise InvalidArgument(Violation("page_size", f"must not be negative, got {request.page_size}"))
    if order_by not in _ORDERS:
        rule = f"must be 'create_time desc' or 'create_time asc', got {order_by!r}"
        raise InvalidArgument(Violation("order_by", rule))
    return PageRequest(
        size=min(request.page_size or DEFAULT_SIZE, MAX_SIZE),
        descending=_ORDERS[order_by],
        after=_cursor(request) if request.page_token else None,
    )


def next_page_token(request: ListRequest, cursor: Cursor | None) -> str:
    """The token of the next page; empty when there is none."""
    if cursor is None:
        return ""
    payload = [to_micros(cursor.create_time), cursor.id, _binding(request)]
    return base64.urlsafe_b64encode(json.dumps(payload).encode()).decode()


def _cursor(request: ListRequest) -> Cursor:
    try:
        payload = json.loads(base64.urlsafe_b64decode(request.page_token.encode()))
        match payload:
            case [int(micros), str(id_), str(binding)] if id_.isascii() and binding == _binding(request):
                return Cursor(create_time=from_micros(micros), id=id_)
    except (binascii.Error, ValueError, OverflowError, RecursionError):
        pass  # refused below, as a token of another list is
    rule = "must be the next_page_token of the last answer to the same request"
    raise InvalidArgument(Violation("page_token", f"{rule}, got {request.page_token!r}"))


def _binding(request: ListRequest) -> str:
    """Digest of what has to stay the same from page to page."""
    assert isinstance(request, Message)
    fixed = type(request)()
    fixed.CopyFrom(request)
    fixed.ClearField("page_token")
    fixed.ClearField("page_size")
    return sha256(
        request.DESCRIPTOR.full_name.encode() + fixed.SerializeToString(deterministic=True)
    ).hexdigest()[:16]
