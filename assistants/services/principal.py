"""The caller of the rpc that is being served."""

from contextvars import ContextVar

from assistants.domain.principal import Principal

PRINCIPAL: ContextVar[Principal] = ContextVar("principal", default=Principal())  # noqa: B039 - frozen
