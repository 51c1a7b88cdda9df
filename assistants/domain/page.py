"""Pages of lists: keyset paging by (create_time, id)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

T = TypeVar("T")

DEFAULT_SIZE = 20
MAX_SIZE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The last item of the page before."""

    create_time: datetime
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which page."""

    size: int = DEFAULT_SIZE
    """1 to MAX_SIZE."""
    descending: bool = True
    """Newest first."""
    after: Cursor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page."""

    items: tuple[T, ...]
    next: Cursor | None
    """None on the last page."""
