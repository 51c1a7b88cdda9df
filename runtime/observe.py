"""How the runtime reports what it does, without knowing to whom."""

from typing import Protocol

from runtime.events import TurnEnd
from runtime.types import GenerateRequest, ModelInfo


class InferenceObservation(Protocol):
    """One model call, from its start to exactly one of `ended`, `failed` and `abandoned`."""

    def first_delta(self) -> None:
        """The first piece of output has arrived."""
        ...

    def ended(self, end: TurnEnd) -> None:
        """The call gave a whole turn."""
        ...

    def failed(self, error: Exception) -> None:
        """The call raised."""
        ...

    def abandoned(self) -> None:
        """The reader stopped before the end: the run was cancelled or expired."""
        ...


class Observer(Protocol):
    """Is told of each piece of work when it starts."""

    def inference(self, request: GenerateRequest, model: ModelInfo) -> InferenceObservation:
        """A model call starts."""
        ...


class _Silence:
    def first_delta(self) -> None: ...
    def ended(self, end: TurnEnd) -> None: ...
    def failed(self, error: Exception) -> None: ...
    def abandoned(self) -> None: ...


_SILENCE = _Silence()


class NullObserver:
    """Reports to nobody; what telemetry costs when it is off."""

    def inference(self, request: GenerateRequest, model: ModelInfo) -> InferenceObservation:
        """Observes nothing."""
        return _SILENCE
