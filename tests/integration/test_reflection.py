"""A client that has never seen our protos: reflection tells it all it needs for a call."""

import asyncio
from pathlib import Path

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.serving import SCRIPTED, serving

SERVICES = {
    "assistants.v1.AssistantService",
    "assistants.v1.ChatCompletionService",
    "assistants.v1.MessageService",
    "assistants.v1.ModelService",
    "assistants.v1.RunService",
    "assistants.v1.ThreadService",
    "assistants.v1.ThreadTransferService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}


async def test_a_client_without_our_protos_finds_all_services_and_calls_one(tmp_path: Path) -> None:
    async with asyncio.timeout(20), serving(tmp_path, *SCRIPTED) as server:
        services, assistant = await asyncio.to_thread(explore, server.address)
    assert services == SERVICES
    assert assistant["name"].startswith("assistants/asst_")
    assert assistant["displayName"] == "Found by reflection"


def explore(address: str) -> tuple[set[str], dict[str, str]]:
    """Names all services and creates an assistant, as grpcurl would."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        services = set(database.get_services())
        for name in services:
            assert pool.FindServiceByName(name).methods, name

        method = pool.FindServiceByName("assistants.v1.AssistantService").FindMethodByName("CreateAssistant")
        asked, answered = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        request = {"assistant": {"model": "scripted", "displayName": "Found by reflection"}}
        response = call(json_format.ParseDict(request, asked(), descriptor_pool=pool))
        return services, json_format.MessageToDict(response, descriptor_pool=pool)
