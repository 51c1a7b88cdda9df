"""AssistantService over gRPC."""

from dataclasses import replace
from typing import Any, TypeAlias

import grpc
from google.protobuf.empty_pb2 import Empty

from assistants.domain.assistant import Assistant, AssistantSettings
from assistants.domain.names import assistant_name, parse_assistant
from assistants.operations.assistants import AssistantOperations
from assistants.operations.editing import etag_of
from assistants.services.convert import (
    effort_from_proto,
    effort_to_proto,
    response_format_from_proto,
    response_format_to_proto,
    sampling_from_proto,
    sampling_to_proto,
    to_timestamp,
    tool_to_proto,
    tools_from_proto,
)
from assistants.services.paging import next_page_token, page_request
from assistants.services.principal import PRINCIPAL
from assistants.services.requests import check_required, masked_fields, request_key, within
from assistants.v1 import assistant_service_pb2 as pb
from assistants.v1 import assistant_service_pb2_grpc as pb_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs only

# Fields of the message, and what they are called in the settings.
_CHANGEABLE = {
    "display_name": "display_name",
    "description": "description",
    "model": "model",
    "instructions": "instructions",
    "tools": "tools",
    "response_format": "response_format",
    "effort": "effort",
    "generation_params": "sampling",
    "metadata": "metadata",
}
_IGNORED = ("name", "create_time", "update_time", "etag")


class AssistantServicer(pb_grpc.AssistantServiceServicer):
    """Maps requests to operations."""

    def __init__(self, operations: AssistantOperations) -> None:
        self._operations = operations

    async def CreateAssistant(self, request: pb.CreateAssistantRequest, context: Context) -> pb.Assistant:  # noqa: D102
        check_required(request)
        key = request_key("CreateAssistant", request, request.request_id)
        with within("assistant"):
            assistant = await self._operations.create(
                PRINCIPAL.get(),
                _settings_from_proto(request.assistant),
                request=key,
                validate_only=request.validate_only,
            )
        return _to_proto(assistant)

    async def GetAssistant(self, request: pb.GetAssistantRequest, context: Context) -> pb.Assistant:  # noqa: D102
        check_required(request)
        return _to_proto(await self._operations.get(PRINCIPAL.get(), parse_assistant(request.name)))

    async def ListAssistants(  # noqa: D102
        self, request: pb.ListAssistantsRequest, context: Context
    ) -> pb.ListAssistantsResponse:
        page = await self._operations.list(PRINCIPAL.get(), page_request(request, request.order_by))
        return pb.ListAssistantsResponse(
            assistants=[_to_proto(assistant) for assistant in page.items],
            next_page_token=next_page_token(request, page.next),
        )

    async def UpdateAssistant(self, request: pb.UpdateAssistantRequest, context: Context) -> pb.Assistant:  # noqa: D102
        assistant_id = parse_assistant(request.assistant.name, "assistant.name")
        fields = masked_fields(request.update_mask, request.assistant, tuple(_CHANGEABLE), _IGNORED)
        with within("assistant"):
            given = _settings_from_proto(request.assistant)
            values = {_CHANGEABLE[field]: getattr(given, _CHANGEABLE[field]) for field in fields}
            assistant = await self._operations.update(
                PRINCIPAL.get(),
                assistant_id,
                lambda settings: replace(settings, **values),
                etag=request.assistant.etag,
            )
        return _to_proto(assistant)

    async def DeleteAssistant(self, request: pb.DeleteAssistantRequest, context: Context) -> Empty:  # noqa: D102
        check_required(request)
        await self._operations.delete(PRINCIPAL.get(), parse_assistant(request.name), etag=request.etag)
        return Empty()


def _settings_from_proto(assistant: pb.Assistant) -> AssistantSettings:
    return AssistantSettings(
        model=assistant.model.removeprefix("models/"),
        display_name=assistant.display_name,
        description=assistant.description,
        instructions=assistant.instructions,
        tools=tools_from_proto(assistant.tools),
        response_format=response_format_from_proto(assistant.response_format),
        effort=effort_from_proto(assistant.effort),
        sampling=sampling_from_proto(assistant.generation_params),
        metadata=dict(assistant.metadata),
    )


def _to_proto(assistant: Assistant) -> pb.Assistant:
    settings = assistant.settings
    return pb.Assistant(
        name=assistant_name(assistant.id),
        display_name=settings.display_name,
        description=settings.description,
        model=settings.model,
        instructions=settings.instructions,
        tools=[tool_to_proto(tool) for tool in settings.tools],
        response_format=response_format_to_proto(settings.response_format),
        effort=effort_to_proto(settings.effort),
        generation_params=sampling_to_proto(settings.sampling),
        metadata=settings.metadata,
        create_time=to_timestamp(assistant.create_time),
        update_time=to_timestamp(assistant.update_time),
        etag=etag_of(assistant),
    )
