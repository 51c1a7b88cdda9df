"""ModelService over gRPC."""

from typing import Any, TypeAlias

import grpc

from assistants.domain.errors import InvalidArgument, Violation
from assistants.domain.model import Model, ModelState
from assistants.domain.names import model_name, parse_model
from assistants.domain.page import DEFAULT_SIZE, MAX_SIZE
from assistants.operations.models import ModelOperations
from assistants.services.convert import effort_to_proto
from assistants.services.requests import check_required
from assistants.v1 import model_service_pb2 as pb
from assistants.v1 import model_service_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs only

_STATES = {
    ModelState.LOADING: pb.Model.STATE_LOADING,
    ModelState.LOADED: pb.Model.STATE_LOADED,
    ModelState.UNLOADED: pb.Model.STATE_UNLOADED,
}


class ModelServicer(pb_grpc.ModelServiceServicer):
    """Maps requests to operations."""

    def __init__(self, operations: ModelOperations) -> None:
        self._operations = operations

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:  # noqa: D102
        check_required(request)
        return _to_proto(await self._operations.get(parse_model(request.name)))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: D102
        if request.page_size < 0:
            raise InvalidArgument(Violation("page_size", f"must not be negative, got {request.page_size}"))
        models = [_to_proto(model) for model in await self._operations.list()]
        # Models are few and ordered by name: the token is the last name.
        rest = [model for model in models if model.name > request.page_token]
        size = min(request.page_size or DEFAULT_SIZE, MAX_SIZE)
        more = len(rest) > size
        return pb.ListModelsResponse(models=rest[:size], next_page_token=rest[size - 1].name if more else "")


def _to_proto(model: Model) -> pb.Model:
    return pb.Model(
        name=model_name(model.name),
        display_name=model.display_name,
        state=_STATES[model.state],
        context_tokens=model.context_tokens,
        capabilities=pb.Model.Capabilities(
            sampling_parameters=True,
            native_reasoning=model.native_reasoning,
            embeddings=model.embeddings,
            logprobs=model.logprobs,
        ),
        aliases=[
            pb.Model.Alias(
                alias=alias.name,
                effort=effort_to_proto(alias.effort),
                sampling_parameters=alias.sampling_parameters,
            )
            for alias in model.aliases
        ],
        license=model.license,
        size_bytes=model.size_bytes,
        slots=model.slots,
        provider=model.provider,
    )
