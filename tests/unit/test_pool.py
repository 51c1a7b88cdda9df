"""Which member of a pool does what."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from runtime.engines import pool as pool_module
from runtime.engines.pool import PooledEngine
from runtime.errors import EngineFault, EngineOverloaded, EngineUnavailable
from runtime.events import EngineEvent, TextDelta, TurnEnd
from runtime.testing import ScriptedEngine
from runtime.types import ChatMessage, ChatRole, FinishReason, GenerateRequest, Usage

MESSAGES = (ChatMessage(role=ChatRole.USER, content="Hello"),)
REQUEST = GenerateRequest(messages=MESSAGES)
END = TurnEnd(FinishReason.STOP, Usage(input_tokens=1, output_tokens=1))


class Member(ScriptedEngine):
    """Says its name, and does as it is told."""

    def __init__(self, name: str, *, slots: int = 2, model_name: str = "scripted") -> None:
        super().__init__(slots=slots, model_name=model_name)
        self.name = name
        self.up = asyncio.Event()
        self.up.set()
        self.failure: Exception | None = None
        self.gate: asyncio.Event | None = None

    @property
    def ready(self) -> bool:
        return super().ready and self.up.is_set()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        if self.failure is not None:
            if isinstance(self.failure, EngineUnavailable):
                self.up.clear()
            raise self.failure
        yield TextDelta(self.name)
        if self.gate is not None:
            await self.gate.wait()
        yield END

    async def wait_ready(self, timeout_s: float) -> None:
        await super().wait_ready(timeout_s)
        await self.up.wait()


@pytest.fixture(autouse=True)
def no_cool_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "COOL_DOWN_S", 0)


@pytest.fixture
async def members() -> list[Member]:
    return [Member("a"), Member("b"), Member("c")]


@pytest.fixture
async def pool(members: list[Member]) -> AsyncIterator[PooledEngine]:
    pooled = PooledEngine({member.name: member for member in members})
    yield pooled
    await pooled.aclose()


def of_thread(thread: str) -> GenerateRequest:
    return GenerateRequest(messages=MESSAGES, affinity=thread)


async def served_by(pool: PooledEngine, request: GenerateRequest = REQUEST) -> str:
    events = [event async for event in pool.generate(request)]
    assert events[-1] == END
    (text,) = [event.text for event in events if isinstance(event, TextDelta)]
    return text


async def begin(pool: PooledEngine, request: GenerateRequest) -> tuple[str, AsyncGenerator[EngineEvent]]:
    """Starts a generation and leaves it running."""
    events = pool.generate(request)
    first = await anext(events)
    assert isinstance(first, TextDelta)
    return first.text, events


async def test_the_pool_has_the_slots_of_all_and_the_context_of_the_smallest() -> None:
    pool = PooledEngine(
        {
            "a": ScriptedEngine(slots=2, context_tokens=1_000),
            "b": ScriptedEngine(slots=3, context_tokens=500),
        }
    )
    assert pool.model.slots == 5
    assert pool.model.context_tokens == 500
    await pool.aclose()


async def test_members_serve_the_same_model() -> None:
    with pytest.raises(EngineFault, match="x at a, y at b"):
        PooledEngine({"a": Member("a", model_name="x"), "b": Member("b", model_name="y")})
    with pytest.raises(EngineFault, match="none"):
        PooledEngine({})


async def test_a_thread_stays_where_it_is(pool: PooledEngine) -> None:
    for thread in ("thread_1", "thread_2", "thread_3"):
        assert len({await served_by(pool, of_thread(thread)) for _ in range(5)}) == 1


async def test_threads_are_spread_evenly(pool: PooledEngine) -> None:
    counts = Counter([await served_by(pool, of_thread(f"thread_{index}")) for index in range(300)])
    assert set(counts) == {"a", "b", "c"}
    assert min(counts.values()) > 60


async def test_another_server_comes_to_the_same_choice(pool: PooledEngine, members: list[Member]) -> None:
    other = PooledEngine({member.name: member for member in reversed(members)})
    for index in range(20):
        request = of_thread(f"thread_{index}")
        assert await served_by(other, request) == await served_by(pool, request)


async def test_a_member_that_is_gone_moves_its_own_threads_only(
    pool: PooledEngine, members: list[Member]
) -> None:
    threads = [of_thread(f"thread_{index}") for index in range(60)]
    before = [await served_by(pool, thread) for thread in threads]
    members[0].up.clear()
    during = [await served_by(pool, thread) for thread in threads]
    assert [now for was, now in zip(before, during, strict=True) if was != "a"] == [
        was for was in before if was != "a"
    ]
    assert {now for was, now in zip(before, during, strict=True) if was == "a"} == {"b", "c"}
    members[0].up.set()
    assert [await served_by(pool, thread) for thread in threads] == before


async def test_requests_without_a_thread_go_to_the_least_busy(
    pool: PooledEngine, members: list[Member]
) -> None:
    for member in members:
        member.gate = asyncio.Event()
    begun = [await begin(pool, REQUEST) for _ in range(6)]
    assert Counter(name for name, _ in begun) == {"a": 2, "b": 2, "c": 2}
    for _, events in begun:
        await events.aclose()
    assert Counter([(await begin(pool, REQUEST))[0] for _ in range(3)]) == {"a": 1, "b": 1, "c": 1}


async def test_a_thread_leaves_a_member_that_is_too_busy(pool: PooledEngine, members: list[Member]) -> None:
    thread = of_thread("thread_1")
    own = await served_by(pool, thread)
    (member,) = [member for member in members if member.name == own]
    member.gate = asyncio.Event()
    # One of its two slots is within the margin, two are not.
    first, second = await begin(pool, thread), await begin(pool, thread)
    assert (first[0], second[0]) == (own, own)
    assert await served_by(pool, thread) != own
    await second[1].aclose()
    member.gate = None
    assert await served_by(pool, thread) == own
    await first[1].aclose()


async def test_who_asks_again_is_served_by_another(pool: PooledEngine, members: list[Member]) -> None:
    thread = of_thread("thread_1")
    own = await served_by(pool, thread)
    (member,) = [member for member in members if member.name == own]
    member.failure = EngineUnavailable("it died")
    with pytest.raises(EngineUnavailable, match="it died"):
        await served_by(pool, thread)
    await pool.wait_ready(1)
    assert await served_by(pool, thread) != own


async def test_a_member_that_failed_is_asked_again_once_it_is_well(
    pool: PooledEngine, members: list[Member]
) -> None:
    for member in members:
        member.failure = EngineUnavailable("it died")
    for _ in members:
        with pytest.raises(EngineUnavailable):
            await served_by(pool)
    assert not pool.ready
    for member in members:
        member.failure = None
        member.up.set()
    await pool.wait_ready(10)
    assert await served_by(pool) in {"a", "b", "c"}


async def test_waiting_for_members_that_never_come_ends(members: list[Member]) -> None:
    for member in members:
        member.up.clear()
    names = {member.name for member in members}
    pool = PooledEngine({member.name: member for member in members}, absent=names)
    assert not pool.ready
    with pytest.raises(EngineUnavailable, match="No engine of the pool answers"):
        await pool.wait_ready(0.05)
    await pool.aclose()


async def test_an_overloaded_member_is_passed_over(pool: PooledEngine, members: list[Member]) -> None:
    members[0].failure = members[1].failure = EngineOverloaded("full")
    assert [await served_by(pool) for _ in range(3)] == ["c", "c", "c"]
    assert pool.ready
    members[2].failure = EngineOverloaded("full as well")
    with pytest.raises(EngineOverloaded):
        await served_by(pool)


async def test_tokens_are_counted_by_whoever_is_there(pool: PooledEngine, members: list[Member]) -> None:
    await members[0].aclose()
    await members[1].aclose()
    assert await pool.count_tokens(MESSAGES) == [5]
    with pytest.raises(EngineFault, match="no embeddings"):
        await pool.embed(["text"])


async def test_an_abandoned_generation_frees_its_member(pool: PooledEngine, members: list[Member]) -> None:
    for member in members:
        member.gate = asyncio.Event()
    async with aclosing(pool.generate(REQUEST)) as events:
        await anext(events)
    assert [member.generations for member in pool._members] == [0, 0, 0]


async def test_closing_closes_all(pool: PooledEngine, members: list[Member]) -> None:
    await pool.aclose()
    await pool.aclose()
    assert not any(member.ready for member in members)
    assert not pool.ready
    for call in (served_by(pool), pool.wait_ready(1), pool.count_tokens(MESSAGES)):
        with pytest.raises(EngineUnavailable, match="closed"):
            await call
