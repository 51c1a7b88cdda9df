"""What every run queue does: in memory, and on JetStream with servers that come and go."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from assistants.cluster.broker import Broker
from assistants.cluster.run_queue import JetStreamRunQueue
from assistants.domain.errors import Unavailable
from assistants.domain.ports import Delivery, QueuedRun, RunQueue
from assistants.runs.queue import MemoryRunQueue
from tests.cluster_parts import NatsServer, nats_server

ACK_WAIT_S = 1.0

MakeQueue = Callable[..., Awaitable[RunQueue]]


@asynccontextmanager
async def server_queue(url: str, *, slots: int = 4) -> AsyncIterator[JetStreamRunQueue]:
    """The queue as one server has it."""
    async with Broker(url) as broker:
        queue = JetStreamRunQueue(broker, slots=slots, ack_wait_s=ACK_WAIT_S)
        await queue.start()
        try:
            yield queue
        finally:
            await queue.aclose()


@pytest.fixture(params=["memory", "jetstream"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunQueue]:
    """An empty queue."""
    if request.param == "memory":
        yield MemoryRunQueue()
    else:
        async with nats_server(tmp_path / "nats") as broker, server_queue(broker.url) as queue:
            yield queue


@pytest.fixture
async def open_queue(nats_url: str) -> AsyncIterator[MakeQueue]:
    """Opens the queue of one more server."""
    async with AsyncExitStack() as opened:

        async def make(*, slots: int = 4) -> RunQueue:
            return await opened.enter_async_context(server_queue(nats_url, slots=slots))

        yield make


async def take(queue: RunQueue) -> Delivery:
    async with asyncio.timeout(20):
        return await queue.take()


async def gone(queue: RunQueue, run_id: str) -> None:
    """Waits until nobody has a run: what is answered is not waited for."""
    async with asyncio.timeout(20):
        while await queue.has(run_id):  # noqa: ASYNC110 - a broker tells nobody that it forgot a message
            await asyncio.sleep(0.01)


async def nothing_comes(queue: RunQueue, *, for_s: float) -> bool:
    try:
        async with asyncio.timeout(for_s):
            await queue.take()
    except TimeoutError:
        return True
    return False


async def put(queue: RunQueue, *run_ids: str) -> None:
    for run_id in run_ids:
        await queue.put(QueuedRun(run_id=run_id, takeover=False))


async def test_runs_come_once_and_as_they_were_put(queue: RunQueue) -> None:
    await put(queue, "run_1", "run_2")
    await queue.put(QueuedRun(run_id="run_3", takeover=True))
    taken = {delivery.run_id: delivery for delivery in [await take(queue) for _ in range(3)]}
    assert {run_id: delivery.takeover for run_id, delivery in taken.items()} == {
        "run_1": False,
        "run_2": False,
        "run_3": True,
    }
    assert {delivery.tries for delivery in taken.values()} == {1}


async def test_a_run_is_there_until_it_is_answered(queue: RunQueue) -> None:
    assert not await queue.has("run_1")
    await put(queue, "run_1")
    delivery = await take(queue)
    assert await queue.has("run_1")
    await delivery.ack()
    await gone(queue, "run_1")


async def test_what_is_given_back_comes_again_as_a_takeover(queue: RunQueue) -> None:
    await put(queue, "run_1")
    delivery = await take(queue)
    await delivery.nak()
    again = await take(queue)
    assert (again.run_id, again.takeover, again.tries) == ("run_1", True, 2)
    await again.nak(0.1)
    assert await queue.has("run_1")
    late = await take(queue)
    assert late.tries == 3
    await late.ack()
    await gone(queue, "run_1")


async def test_a_second_answer_changes_nothing(queue: RunQueue) -> None:
    await put(queue, "run_1")
    delivery = await take(queue)
    await delivery.ack()
    await delivery.nak()
    await delivery.ack()
    delivery.drop()
    await gone(queue, "run_1")


async def test_a_run_may_be_queued_again_while_it_is_in_hand(queue: RunQueue) -> None:
    """A run pauses, and its outputs are submitted before its delivery is answered."""
    await put(queue, "run_1")
    first = await take(queue)
    await put(queue, "run_1")
    await first.ack()
    second = await take(queue)
    assert (second.run_id, second.takeover) == ("run_1", False)


async def test_no_more_runs_come_than_there_are_slots(open_queue: MakeQueue) -> None:
    small, large = await open_queue(slots=2), await open_queue(slots=8)
    await put(small, *(f"run_{number}" for number in range(10)))
    taken = [await take(small) for _ in range(2)] + [await take(large) for _ in range(8)]
    assert len({delivery.run_id for delivery in taken}) == 10
    await put(large, "run_10")
    assert await nothing_comes(large, for_s=0.3)
    await taken[0].ack()
    assert (await take(small)).run_id == "run_10"


async def test_whoever_holds_a_run_long_keeps_it(open_queue: MakeQueue) -> None:
    one, other = await open_queue(), await open_queue()
    await put(one, "run_1")
    takers = {asyncio.create_task(queue.take()) for queue in (one, other)}
    done, waiting = await asyncio.wait(takers, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    (delivery,) = (task.result() for task in done)
    _, still_waiting = await asyncio.wait(waiting, timeout=2.5 * ACK_WAIT_S)
    assert still_waiting, "nobody else got it"
    await delivery.ack()
    await gone(one, "run_1")
    for task in waiting:
        task.cancel()


async def test_the_runs_of_a_dead_server_come_to_another(nats_url: str, open_queue: MakeQueue) -> None:
    async with Broker(nats_url) as broker:
        dying = JetStreamRunQueue(broker, slots=1, ack_wait_s=ACK_WAIT_S)
        await dying.start()
        await put(dying, "run_1")
        assert (await take(dying)).run_id == "run_1"
        await dying.aclose()  # says nothing about what it holds
    heir = await open_queue()
    delivery = await take(heir)
    assert (delivery.run_id, delivery.takeover) == ("run_1", True)


async def test_a_run_that_was_dropped_comes_again(open_queue: MakeQueue) -> None:
    queue = await open_queue()
    await put(queue, "run_1")
    (await take(queue)).drop()
    again = await take(queue)
    assert again.takeover
    await again.ack()
    await gone(queue, "run_1")


async def test_a_late_answer_of_a_frozen_server_would_take_the_run_from_its_heir(
    open_queue: MakeQueue,
) -> None:
    """Why nothing is said after a refused write."""
    frozen, heir = await open_queue(slots=1), await open_queue(slots=1)
    await put(frozen, "run_1")
    takers = {asyncio.create_task(queue.take()): queue for queue in (frozen, heir)}
    done, _ = await asyncio.wait(takers, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    first = done.pop().result()
    first.drop()  # touches it no more, as one that is frozen
    second = (
        await asyncio.wait_for(next(task for task in takers if not task.done()), 20)
        if any(not task.done() for task in takers)
        else await take(frozen)
    )
    assert second.takeover
    assert await frozen.has("run_1")


async def test_draining_gives_back_at_once_what_waits(open_queue: MakeQueue) -> None:
    leaving = await open_queue(slots=8)
    await put(leaving, *(f"run_{number}" for number in range(5)))
    held = await take(leaving)
    await leaving.drain()
    await held.nak()
    await put(leaving, "run_5")
    staying = await open_queue(slots=8)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    taken = [await take(staying) for _ in range(6)]
    print(f"handed over after {loop.time() - begin:.3f} s")
    assert {delivery.run_id for delivery in taken} == {f"run_{number}" for number in range(6)}


async def test_a_broker_that_was_killed_still_has_what_waited_and_who_holds_what(
    nats_broker: NatsServer, open_queue: MakeQueue
) -> None:
    one, other = await open_queue(slots=1), await open_queue(slots=2)
    await put(one, "run_1", "run_2", "run_3", "run_4")
    held = [await take(one), await take(other), await take(other)]
    nats_broker.kill()
    with pytest.raises(Unavailable):
        while True:  # the connection is lost a moment later
            await one.has("run_1")
    await put(one, "run_5")  # accepted: the sweep brings it
    await nats_broker.start()
    left = {"run_1", "run_2", "run_3", "run_4"} - {delivery.run_id for delivery in held}
    await held[0].ack()
    delivery = await take(one)
    assert {delivery.run_id} == left
    assert await nothing_comes(other, for_s=2 * ACK_WAIT_S)
    await one.put(QueuedRun(run_id="run_5", takeover=False), again=True)
    await delivery.ack()
    assert (await take(one)).run_id == "run_5"


async def test_a_broker_that_has_lost_all_is_set_up_again(
    nats_broker: NatsServer, open_queue: MakeQueue
) -> None:
    queue = await open_queue()
    await put(queue, "run_1")
    await take(queue)
    nats_broker.kill()
    nats_broker.forget()
    await nats_broker.start()
    async with asyncio.timeout(20):
        while True:  # not connected again, at first
            try:
                if not await queue.has("run_1"):
                    break
            except Unavailable:
                pass
            await asyncio.sleep(0.05)
    for _ in range(2):  # two servers repair it at once
        await queue.put(QueuedRun(run_id="run_1", takeover=True), again=True)
    again = await take(queue)
    assert again.takeover
    assert await nothing_comes(queue, for_s=0.5)
