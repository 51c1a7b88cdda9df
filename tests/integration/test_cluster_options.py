"""Starting a server of a cluster: what is refused in one line, and what is waited for."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from tests.cluster_parts import NATS_SERVER, NatsServer, free_port
from tests.serving import READY_TIMEOUT_S, SCRIPTED, run_cli, started


async def test_nats_needs_a_shared_database() -> None:
    refused = await run_cli("serve", "--nats-url", "nats://127.0.0.1:4222")
    assert refused.code == 2
    assert "--nats-url needs --database-url" in refused.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:4222", "nats://a:1,b:2"])
async def test_nats_is_reached_by_its_own_scheme(url: str) -> None:
    refused = await run_cli("serve", "--database-url", "postgresql:///x", "--nats-url", url)
    assert refused.code == 2
    assert "must be nats://HOST:PORT or tls://" in refused.stderr


async def test_nats_without_jetstream_is_refused_in_one_line(tmp_path: Path, migrated_url: str) -> None:
    port = free_port()
    nats = subprocess.Popen((NATS_SERVER, "-a", "127.0.0.1", "-p", str(port)), stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        options = ("--database-url", migrated_url, "--nats-url", f"nats://127.0.0.1:{port}")
        refused = await run_cli("serve", *SCRIPTED, *options, "--grpc-address", "127.0.0.1:0")
    finally:
        nats.kill()
        nats.wait()
    assert refused.code == 1
    assert (
        refused.stderr.rstrip().splitlines()[-1]
        == "assistants: NATS runs without JetStream: start it with -js"
    )
    assert "Traceback" not in refused.stderr


async def test_a_server_waits_for_nats_and_starts_when_it_comes(
    nats_broker: NatsServer, migrated_url: str
) -> None:
    nats_broker.kill()
    options = ("--database-url", migrated_url, "--nats-url", nats_broker.url)
    async with started("serve", *SCRIPTED, *options, "--grpc-address", "127.0.0.1:0") as server:
        assert server.stderr is not None
        assert server.stdout is not None
        async with asyncio.timeout(READY_TIMEOUT_S):
            while b"waiting for NATS" not in await server.stderr.readline():
                pass
            await nats_broker.start()
            assert (await server.stdout.readline()).startswith(b"ready ")


async def test_a_server_that_waits_for_nats_stops_when_it_is_told_to(migrated_url: str) -> None:
    options = ("--database-url", migrated_url, "--nats-url", f"nats://127.0.0.1:{free_port()}")
    async with started("serve", *SCRIPTED, *options, "--grpc-address", "127.0.0.1:0") as server:
        assert server.stderr is not None
        async with asyncio.timeout(READY_TIMEOUT_S):
            while b"waiting for NATS" not in await server.stderr.readline():
                pass
            server.terminate()
            assert await server.wait() == 0
            assert b"Traceback" not in await server.stderr.read()
