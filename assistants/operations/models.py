"""Models that the server has."""

from collections.abc import Sequence
from dataclasses import replace

from assistants.domain.errors import InvalidArgument, NotFound, Violation
from assistants.domain.model import Model, ModelAlias, ModelState
from assistants.domain.names import model_name
from runtime.engines.base import Engine
from runtime.types import Effort, Sampling


class ModelOperations:
    """Finds models by name and alias. One of them is served; the others are installed beside it."""

    def __init__(self, engine: Engine, served: Model, others: Sequence[Model]) -> None:
        self._engine = engine
        self._served = served
        self._others = tuple(others)

    async def list(self) -> Sequence[Model]:
        """All models, by name."""
        return sorted((self._current(), *self._others), key=lambda model: model.name)

    async def get(self, name: str) -> Model:
        """A model by name or alias. Raises NotFound."""
        for model in await self.list():
            if name == model.name or any(name == alias.name for alias in model.aliases):
                return model
        raise NotFound("model", model_name(name))

    def check_served(self, name: str, field: str = "model") -> ModelAlias | None:
        """The alias by which `name` means the served model, if it is one.

        Raises:
            InvalidArgument: the server does not serve a model of that name.
        """
        if name == self._served.name:
            return None
        for alias in self._served.aliases:
            if alias.name == name:
                return alias
        known = ", ".join([self._served.name, *(alias.name for alias in self._served.aliases)])
        raise InvalidArgument(Violation(field, f"must be a model that is served ({known}), got {name!r}"))

    def check_settings(self, name: str, sampling: Sampling, *, others: Sequence[str] = ()) -> None:
        """Raises InvalidArgument when the model is not served or refuses the sampling parameters.

        Args:
            name: of the model.
            sampling: a seed is never refused.
            others: further fields that were set and count as sampling parameters.
        """
        alias = self.check_served(name)
        if alias is not None and not alias.sampling_parameters:
            given = {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "presence_penalty": sampling.presence_penalty,
                "frequency_penalty": sampling.frequency_penalty,
            }
            refused = [f"generation_params.{field}" for field, value in given.items() if value is not None]
            refused += others
            if refused:
                rule = f"is not supported with the model {name!r}"
                raise InvalidArgument(*(Violation(field, rule) for field in refused))

    def effort_of(self, name: str) -> Effort | None:
        """The effort that comes with an alias."""
        alias = self.check_served(name)
        return alias.effort if alias else None

    def _current(self) -> Model:
        state = ModelState.LOADED if self._engine.ready else ModelState.LOADING
        return replace(self._served, state=state)
