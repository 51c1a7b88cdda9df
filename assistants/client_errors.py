"""Errors as they come back over gRPC: the server's own classes again."""

from collections.abc import Callable, Mapping

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from assistants.domain.errors import (
    AlreadyExists,
    AssistantsError,
    DeadlineExceeded,
    EtagMismatch,
    EventsPruned,
    FeatureUnavailable,
    InvalidArgument,
    NoActionRequired,
    NotFound,
    OutputInvalid,
    Overloaded,
    RequestIdReused,
    RunActive,
    RunEnded,
    StorageFull,
    Unavailable,
    Violation,
)

_REBUILT: dict[str, Callable[[Mapping[str, str]], AssistantsError]] = {
    "FEATURE_UNAVAILABLE": lambda m: FeatureUnavailable(m["field"], m["feature"]),
    "RESOURCE_NOT_FOUND": lambda m: NotFound(m["resource_type"], m["name"]),
    "RUN_ACTIVE": lambda m: RunActive(thread=m["thread"], run=m["run"]),
    "RUN_ENDED": lambda m: RunEnded(run=m["run"], state=m["state"]),
    "NO_ACTION_REQUIRED": lambda m: NoActionRequired(run=m["run"], state=m["state"]),
    "OUTPUT_INVALID": lambda m: OutputInvalid(m["violations"]),
    "ALREADY_EXISTS": lambda m: AlreadyExists(m["resource_type"], m["name"]),
    "EVENTS_PRUNED": lambda m: EventsPruned(
        run=m["run"],
        after_sequence=int(m["after_sequence"]),
        oldest_sequence=int(m["oldest_sequence"]),
    ),
    "ETAG_MISMATCH": lambda m: EtagMismatch(m["name"], given=m["given"], current=m["current"]),
}
_FIELD_ERRORS = {"INVALID_FIELD": InvalidArgument, "REQUEST_ID_REUSED": RequestIdReused}


def error_of(error: grpc.aio.AioRpcError) -> AssistantsError | None:
    """The error as the server raised it; None when it is none of ours."""
    info, violations, retry_after_s = error_details_pb2.ErrorInfo(), [], 0.0
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad_request = error_details_pb2.BadRequest()
            detail.Unpack(bad_request)
            violations = [Violation(v.field, v.description) for v in bad_request.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    if info.reason in _FIELD_ERRORS and violations:
        return _FIELD_ERRORS[info.reason](*violations)
    if info.reason in _REBUILT:
        return _REBUILT[info.reason](info.metadata)
    for passing in (Overloaded, StorageFull):
        if info.reason == passing.reason:
            return passing(error.details() or passing.reason, retry_after_s=retry_after_s)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("the server did not answer in time")
    # A cancel of ours is a CancelledError: this one is a server that closes as the call arrives.
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return Unavailable(f"the server cannot be reached: {error.details()}", retry_after_s=retry_after_s)
    return None
