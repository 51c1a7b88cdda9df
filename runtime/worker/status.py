"""Errors of an engine as gRPC statuses, and back."""

from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from runtime.engines import wire
from runtime.errors import (
    ContextExceeded,
    EngineError,
    EngineFault,
    EngineOverloaded,
    EngineUnavailable,
    OutputInvalid,
    PromptRejected,
    SchemaRejected,
)
from runtime.v1 import reasoning_engine_pb2 as pb

_DOMAIN = "runtime"
_CONTEXT_EXCEEDED = "CONTEXT_EXCEEDED"


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: EngineError) -> NoReturn:
    """Ends a call with the status of an error."""
    await context.abort_with_status(rpc_status.to_status(_to_status(error)))
    raise AssertionError  # abort_with_status always raises; its type does not say so.


def to_error(error: grpc.aio.AioRpcError) -> EngineError:
    """Rebuilds the error behind the status of a call."""
    message = error.details() or error.code().name
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            return _rejection(error, message)
        case grpc.StatusCode.ABORTED:
            return _invalid_output(error, message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return EngineOverloaded(message)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.DEADLINE_EXCEEDED:
            return EngineUnavailable(message)
        case _:
            return EngineFault(message)


def _to_status(error: EngineError) -> status_pb2.Status:
    match error:
        case ContextExceeded():
            info = error_details_pb2.ErrorInfo(
                reason=_CONTEXT_EXCEEDED,
                domain=_DOMAIN,
                metadata={
                    "prompt_tokens": str(error.prompt_tokens),
                    "context_tokens": str(error.context_tokens),
                },
            )
            return _detailed(code_pb2.INVALID_ARGUMENT, error, info)
        case SchemaRejected(rule=rule, subject=subject, path=path):
            return _detailed(
                code_pb2.INVALID_ARGUMENT, error, pb.SchemaRejection(rule=rule, subject=subject, path=path)
            )
        case OutputInvalid():
            output = pb.InvalidOutput(
                document=error.document, violations=error.violations, usage=wire.usage_to_proto(error.usage)
            )
            return _detailed(code_pb2.ABORTED, error, output)
        case PromptRejected():
            code = code_pb2.INVALID_ARGUMENT
        case EngineOverloaded():
            code = code_pb2.RESOURCE_EXHAUSTED
        case EngineUnavailable():
            code = code_pb2.UNAVAILABLE
        case _:
            code = code_pb2.INTERNAL
    return status_pb2.Status(code=code, message=str(error))


def _detailed(code: code_pb2.Code.ValueType, error: EngineError, info: Message) -> status_pb2.Status:
    detail = any_pb2.Any()
    detail.Pack(info)
    return status_pb2.Status(code=code, message=str(error), details=[detail])


def _rejection(error: grpc.aio.AioRpcError, message: str) -> PromptRejected:
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.reason == _CONTEXT_EXCEEDED:
            return ContextExceeded(
                prompt_tokens=int(info.metadata["prompt_tokens"]),
                context_tokens=int(info.metadata["context_tokens"]),
            )
        schema = pb.SchemaRejection()
        if detail.Unpack(schema):
            return SchemaRejected(schema.rule, subject=schema.subject, path=schema.path)
    return PromptRejected(message)


def _invalid_output(error: grpc.aio.AioRpcError, message: str) -> EngineError:
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        output = pb.InvalidOutput()
        if detail.Unpack(output):
            return OutputInvalid(
                document=output.document,
                violations=tuple(output.violations),
                usage=wire.usage_from_proto(output.usage),
            )
    return EngineFault(message)
