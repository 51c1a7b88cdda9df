"""Creates that are sent again, as clients do that did not get the answer."""

import asyncio
from pathlib import Path

from assistants.v1 import thread_service_pb2, thread_service_pb2_grpc
from tests.serving import SCRIPTED, serving


async def test_the_same_create_makes_one_thread_and_another_one_after_its_deletion(tmp_path: Path) -> None:
    async with asyncio.timeout(20), serving(tmp_path, *SCRIPTED) as server, server.client() as client:
        stub = thread_service_pb2_grpc.ThreadServiceStub(client.channel)
        request = thread_service_pb2.CreateThreadRequest(request_id="5f0c6b0e-7f3e-4c53-8f60-6a6f6a6d2c11")
        created = await stub.CreateThread(request)
        assert await stub.CreateThread(request) == created
        await client.delete_thread(created.name)
        again = await stub.CreateThread(request)
        assert again.name != created.name
        assert await stub.CreateThread(request) == again
