"""Who calls."""

from dataclasses import dataclass

DEFAULT_PROJECT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller of an operation."""

    project_id: str = DEFAULT_PROJECT
    """Tenant: nothing of another one can be reached."""
