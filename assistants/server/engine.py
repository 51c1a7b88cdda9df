"""The engine that the configuration asks for, and what is told of its model."""

from assistants.config import ServerConfig
from assistants.domain.model import Model, ModelAlias, ModelState
from runtime.engines.base import Engine
from runtime.engines.embedded import EmbeddedEngine
from runtime.models.catalog import ALIASES, MODELS
from runtime.models.store import InstalledModel, ModelStore
from runtime.testing import ScriptedEngine
from runtime.worker.spec import WorkerSpec

_DEFAULT_SLOTS = 4
_DEFAULT_CONTEXT_TOKENS = 8_192
_SCRIPTED_SLOTS = 64
_SCRIPTED_CONTEXT_TOKENS = 1_000_000


async def start_engine(config: ServerConfig) -> Engine:
    """Starts it and waits until it answers.

    Raises:
        ModelError: the model is unknown, not installed, or corrupt.
        WorkerStartFailed: its process did not come up.
    """
    match config.engine:
        case "scripted":
            return ScriptedEngine.echo(
                slots=config.slots or _SCRIPTED_SLOTS,
                context_tokens=config.context_tokens or _SCRIPTED_CONTEXT_TOKENS,
            )
        case "embedded":
            installed = ModelStore(config.models_dir).get(config.model)
            spec = WorkerSpec(
                model_path=installed.path,
                name=installed.name,
                slots=config.slots or _DEFAULT_SLOTS,
                context_tokens=config.context_tokens or _DEFAULT_CONTEXT_TOKENS,
                threads=config.threads,
                native_reasoning=installed.capabilities.native_reasoning,
            )
            return await EmbeddedEngine.start(spec)


def served_model(engine: Engine, config: ServerConfig) -> Model:
    """The model that runs can name; all aliases mean it."""
    info = engine.model
    listed = MODELS.get(info.name)
    size_bytes = 0
    if config.engine == "embedded":
        size_bytes = ModelStore(config.models_dir).get(config.model).size_bytes
    return Model(
        name=info.name,
        display_name=listed.display_name if listed else info.name,
        state=ModelState.LOADED,
        provider=info.provider,
        context_tokens=info.context_tokens,
        slots=info.slots,
        license=listed.license if listed else "",
        size_bytes=size_bytes,
        native_reasoning=info.native_reasoning,
        embeddings=info.embeddings,
        aliases=tuple(
            ModelAlias(
                name=alias.name,
                effort=alias.effort,
                sampling_parameters=alias.capabilities.sampling_parameters,
            )
            for alias in ALIASES.values()
        ),
    )


def unloaded_models(config: ServerConfig, served: str) -> list[Model]:
    """Models that are installed beside the served one."""
    return [
        _unloaded(installed)
        for installed in ModelStore(config.models_dir).installed()
        if installed.name != served
    ]


def _unloaded(installed: InstalledModel) -> Model:
    listed = MODELS.get(installed.name)
    return Model(
        name=installed.name,
        display_name=listed.display_name if listed else installed.name,
        state=ModelState.UNLOADED,
        provider="llama_cpp",
        context_tokens=installed.context_tokens,
        slots=0,
        license=installed.license,
        size_bytes=installed.size_bytes,
        native_reasoning=installed.capabilities.native_reasoning,
        embeddings=installed.capabilities.embeddings,
    )
