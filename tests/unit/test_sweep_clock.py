"""The clock is set while runs wait: nothing expires at once, nothing waits for ever."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from assistants.domain.run import Run, RunSettings, RunStatus
from assistants.domain.run_states import RunState
from assistants.domain.times import CLOCK_SLACK, ClockJumps
from assistants.runs.sweep import Sweep

START = datetime(2026, 1, 1, tzinfo=UTC)
TTL = timedelta(seconds=600)


@dataclass
class SetClock:
    """A clock that a test sets."""

    time: datetime = START
    seconds: float = 100.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def passes(self, by: timedelta) -> None:
        self.time += by
        self.seconds += by.total_seconds()

    def is_set(self, by: timedelta) -> None:
        self.time += by


@dataclass
class Parked:
    """The store of one run that waits for tool outputs, as the sweep sees it."""

    clock: SetClock
    expire_time: datetime = START + TTL
    state: RunState = RunState.REQUIRES_ACTION
    renewed: int = 0
    broken: bool = False
    idle_calls: list[datetime] = field(default_factory=list)

    async def overdue(self, now: datetime) -> Sequence[Run]:
        if self.broken:
            raise ConnectionError("gone")
        if self.state.final or now < self.expire_time <= now + TTL + CLOCK_SLACK:
            return []
        status = RunStatus(state=self.state, expire_time=self.expire_time)
        return [
            Run(
                id="run_1",
                project_id="p",
                thread_id="thread_1",
                assistant_id="asst_1",
                settings=RunSettings(model="m"),
                status=status,
                create_time=START,
            )
        ]

    async def renew(self, project_id: str, run_id: str) -> None:
        self.renewed += 1
        self.expire_time = self.clock.now() + TTL

    async def end_idle(self, project_id: str, run_id: str, *, expired: bool) -> None:
        assert expired
        self.state = RunState.EXPIRED

    async def idle(self, *, waiting_since: datetime, executing_since: datetime) -> Sequence[Any]:
        return []


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def parked(clock: SetClock) -> Parked:
    return Parked(clock)


@pytest.fixture
def sweep(clock: SetClock, parked: Parked) -> Sweep:
    nothing = cast(Any, SimpleNamespace(executes=lambda _: False))
    return Sweep(
        store=cast(Any, parked),
        queue=nothing,
        executor=nothing,
        requests=nothing,
        events=nothing,
        event_retention=timedelta(days=7),
        clock=clock,
    )


async def test_a_run_expires_when_its_time_has_passed(sweep: Sweep, clock: SetClock, parked: Parked) -> None:
    states = []
    for passed in (TTL - timedelta(seconds=1), timedelta(seconds=1)):
        clock.passes(passed)
        await sweep.once()
        states.append(parked.state)
    assert states == [RunState.REQUIRES_ACTION, RunState.EXPIRED]


@pytest.mark.parametrize("by", [timedelta(minutes=11), timedelta(days=400)])
async def test_a_clock_that_is_set_forward_gives_runs_their_whole_time_again(
    sweep: Sweep, clock: SetClock, parked: Parked, by: timedelta
) -> None:
    clock.passes(timedelta(seconds=300))
    await sweep.once()
    clock.is_set(by)
    await sweep.once()
    assert (parked.state, parked.renewed) == (RunState.REQUIRES_ACTION, 1)
    clock.passes(TTL - timedelta(seconds=1))
    await sweep.once()
    assert parked.state is RunState.REQUIRES_ACTION
    clock.passes(timedelta(seconds=1))
    await sweep.once()
    assert (parked.state, parked.renewed) == (RunState.EXPIRED, 1)


async def test_what_was_overdue_before_the_jump_expires(
    sweep: Sweep, clock: SetClock, parked: Parked
) -> None:
    clock.passes(TTL)
    clock.is_set(timedelta(days=1))
    await sweep.once()
    assert parked.state is RunState.EXPIRED


async def test_a_jump_is_remembered_while_the_store_is_gone(
    sweep: Sweep, clock: SetClock, parked: Parked
) -> None:
    clock.is_set(timedelta(days=1))
    parked.broken = True
    with pytest.raises(ConnectionError):
        await sweep.once()
    parked.broken = False
    await sweep.once()
    assert (parked.state, parked.renewed) == (RunState.REQUIRES_ACTION, 1)


async def test_a_clock_that_is_set_back_does_not_let_runs_wait_for_ever(
    sweep: Sweep, clock: SetClock, parked: Parked
) -> None:
    clock.is_set(timedelta(days=-400))
    await sweep.once()
    assert parked.expire_time == clock.now() + TTL
    clock.passes(TTL)
    await sweep.once()
    assert parked.state is RunState.EXPIRED


def test_a_clock_that_is_slewed_does_not_jump(clock: SetClock) -> None:
    jumps = ClockJumps(clock)
    clock.passes(timedelta(hours=1))
    clock.is_set(timedelta(seconds=2))
    assert jumps.forward() == timedelta()
    clock.is_set(timedelta(seconds=4))
    assert jumps.forward() == timedelta(seconds=6)
    jumps.forget()
    assert jumps.forward() == timedelta()
    clock.is_set(timedelta(hours=-1))
    assert jumps.forward() == timedelta()
