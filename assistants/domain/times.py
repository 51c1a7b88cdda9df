"""Moments as int64 microseconds since 1970 UTC, exact."""

import time as clocks
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_JUMP = timedelta(seconds=5)

CLOCK_SLACK = timedelta(seconds=60)
"""How far the clocks of servers may be apart; more is a clock that was set."""


class Clock(Protocol):
    """What tells the time."""

    def now(self) -> datetime:
        """The moment, in UTC. It jumps when somebody sets the clock, or the machine was suspended."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never jumps."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """The moment, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return clocks.monotonic()


class ClockJumps:
    """Notices that the clock was set forward."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = self._look()

    def forward(self) -> timedelta:
        """By how much the clock was set forward since the last `forget`; zero if by less than 5 seconds."""
        jump = self._look() - self._offset
        return jump if jump >= _JUMP else timedelta()

    def forget(self) -> None:
        """What was set so far is settled."""
        self._offset = self._look()

    def _look(self) -> timedelta:
        return self._clock.now() - _EPOCH - timedelta(seconds=self._clock.monotonic())


def to_micros(time: datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (time - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The moment, in UTC. Raises OverflowError outside the years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=micros)


def not_before(time: datetime, *earlier: datetime) -> datetime:
    """The moment, or the latest of those that it cannot come before.

    A clock that is set back must not make a duration negative.
    """
    return max(time, *earlier)


def now_micros() -> int:
    """This moment."""
    return to_micros(datetime.now(UTC))
