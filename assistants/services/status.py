"""The one table from errors to gRPC statuses, with their details."""

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from assistants.domain.errors import (
    AlreadyExists,
    AssistantsError,
    FailedPrecondition,
    FeatureUnavailable,
    InvalidArgument,
    NotFound,
    Unavailable,
)

DOMAIN = "assistants.v1"
# A client drops trailers of more than 8 KiB, and the status with them: a message is
# in there twice, once percent-encoded, and whatever it quotes is as long as clients like.
_MAX_MESSAGE_BYTES = 512
_MAX_TEXT_BYTES = 320
_MAX_VIOLATIONS_BYTES = 2048


def status_of(error: AssistantsError) -> grpc.Status:
    """Code, message, exactly one ErrorInfo, and the detail that fits the error."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason,
            domain=DOMAIN,
            metadata={key: _cut(value) for key, value in error.metadata.items()},
        )
    ]
    match error:
        case InvalidArgument(violations=violations):
            details.append(_bad_request(*((v.field, v.description) for v in violations)))
        case FeatureUnavailable(field=field, message=message):
            details.append(_bad_request((field, message)))
        case (
            NotFound(resource_type=resource_type, name=name)
            | AlreadyExists(resource_type=resource_type, name=name)
        ):
            details.append(
                error_details_pb2.ResourceInfo(
                    resource_type=resource_type, resource_name=_cut(name), description=_cut(error.message)
                )
            )
        case FailedPrecondition(subject=subject):
            violation = error_details_pb2.PreconditionFailure.Violation(
                type=error.reason, subject=_cut(subject), description=_cut(error.message)
            )
            details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
        case Unavailable(retry_after_s=retry_after_s):
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(retry_after_s * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(code_pb2.Code.Value(error.code), error.message, details)


def internal_status(trace_id: str) -> grpc.Status:
    """The status of a bug: nothing of its inside, and the trace to look it up by."""
    metadata = {"trace_id": trace_id} if trace_id else {}
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata=metadata)
    return _status(code_pb2.INTERNAL, "internal error", [info])


def _bad_request(*violations: tuple[str, str]) -> error_details_pb2.BadRequest:
    """As many of the violations as there is room for; at least one."""
    told = error_details_pb2.BadRequest()
    for field, description in violations:
        told.field_violations.add(field=_cut(field), description=_cut(description))
        if told.ByteSize() > _MAX_VIOLATIONS_BYTES:
            break
    return told


def _cut(text: str, most: int = _MAX_TEXT_BYTES) -> str:
    encoded = text.encode()
    return text if len(encoded) <= most else encoded[:most].decode(errors="ignore") + "…"


def _status(code: int, message: str, details: list[Message]) -> grpc.Status:
    packed = []
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)
        packed.append(item)
    status: grpc.Status = rpc_status.to_status(
        status_pb2.Status(code=code, message=_cut(message, _MAX_MESSAGE_BYTES), details=packed)
    )
    return status
