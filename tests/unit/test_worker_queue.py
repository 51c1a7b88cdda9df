"""Slots go out by priority, then arrival, and none gets lost."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from runtime.errors import EngineOverloaded
from runtime.types import Priority
from runtime.worker.queue import SlotQueue

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH


class Requests:
    """Requests that hold their slot until they are told to go on."""

    def __init__(self, queue: SlotQueue) -> None:
        self.queue = queue
        self.order: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.gates: dict[str, asyncio.Event] = {}

    async def arrive(self, name: str, priority: Priority = INTERACTIVE) -> None:
        self.gates[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, priority))
        await settle()

    async def leave(self, name: str) -> None:
        self.gates[name].set()
        await self.tasks[name]
        await settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks[name], return_exceptions=True)
        await settle()

    async def _hold(self, name: str, priority: Priority) -> None:
        async with self.queue.slot(priority):
            self.order.append(name)
            await self.gates[name].wait()


async def settle() -> None:
    """Lets everything run that can run: a hand-over takes one round of the loop."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Requests]]:
    made: list[Requests] = []

    def factory(*, slots: int = 1, length: int = 10) -> Requests:
        made.append(Requests(SlotQueue(slots, length=length)))
        return made[-1]

    yield factory
    tasks = [task for requests in made for task in requests.tasks.values()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Make = Callable[..., Requests]


async def test_interactive_requests_overtake_batch_requests(make: Make) -> None:
    requests = make()
    await requests.arrive("first")
    await requests.arrive("batch 1", BATCH)
    await requests.arrive("batch 2", BATCH)
    await requests.arrive("interactive 1")
    await requests.arrive("interactive 2")
    expected = ["first", "interactive 1", "interactive 2", "batch 1", "batch 2"]
    for name in expected:
        await requests.leave(name)
    assert requests.order == expected
    assert requests.queue.free == 1


async def test_as_many_run_as_there_are_slots(make: Make) -> None:
    requests = make(slots=2)
    for name in "abc":
        await requests.arrive(name)
    assert requests.order == ["a", "b"]
    assert (requests.queue.free, requests.queue.waiting) == (0, 1)


async def test_a_full_queue_refuses(make: Make) -> None:
    requests = make(length=1)
    await requests.arrive("runs")
    await requests.arrive("waits")
    with pytest.raises(EngineOverloaded, match="1 requests wait already"):
        async with requests.queue.slot(INTERACTIVE):
            pass


async def test_a_cancelled_request_makes_room_in_a_full_queue(make: Make) -> None:
    requests = make(length=1)
    await requests.arrive("runs")
    await requests.arrive("gives up")
    await requests.cancel("gives up")
    await requests.arrive("waits")
    assert requests.queue.waiting == 1


async def test_a_cancelled_request_is_passed_over(make: Make) -> None:
    requests = make()
    await requests.arrive("runs")
    await requests.arrive("gives up")
    await requests.arrive("waits")
    await requests.cancel("gives up")
    await requests.leave("runs")
    assert requests.order == ["runs", "waits"]


async def test_a_slot_handed_to_a_request_that_is_cancelled_in_the_same_moment_is_not_lost(
    make: Make,
) -> None:
    requests = make()
    await requests.arrive("runs")
    await requests.arrive("is cancelled")
    await requests.arrive("waits")
    requests.gates["runs"].set()
    # One round: "runs" has left and handed over, but "is cancelled" has not woken up.
    await asyncio.sleep(0)
    await requests.cancel("is cancelled")
    assert requests.order == ["runs", "waits"]
    await requests.leave("waits")
    assert requests.queue.free == 1


async def test_an_error_in_the_body_frees_the_slot() -> None:
    queue = SlotQueue(1, length=0)

    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        async with queue.slot(INTERACTIVE):
            yield

    with pytest.raises(LookupError):
        async with failing():
            raise LookupError
    assert queue.free == 1
