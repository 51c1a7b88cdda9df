"""Changing what others may change at the same time."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from assistants.domain.errors import EtagMismatch


class Revised(Protocol):
    """A resource that counts its changes."""

    @property
    def revision(self) -> int:
        """From 1."""
        ...


R = TypeVar("R", bound=Revised)


def etag_of(resource: Revised) -> str:
    """The etag that clients see."""
    return f'"{resource.revision}"'


def check_etag(name: str, resource: Revised, etag: str) -> None:
    """Raises EtagMismatch when a client's etag is not the current one; an empty one is not checked."""
    if etag and etag != etag_of(resource):
        raise EtagMismatch(name, given=etag, current=etag_of(resource))


async def edit(
    name: str,
    etag: str,
    *,
    read: Callable[[], Awaitable[R]],
    change: Callable[[R], Awaitable[R]],
    write: Callable[[R, int], Awaitable[bool]],
) -> R:
    """Reads, changes and writes, again when somebody else wrote in between.

    Raises:
        EtagMismatch: the client's etag is not the current one.
    """
    while True:
        current = await read()
        check_etag(name, current, etag)
        changed = await change(current)
        if await write(changed, current.revision):
            return changed
