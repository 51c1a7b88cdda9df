"""The engine that the configuration asks for, and what is told of its model."""

import asyncio
import logging
from collections.abc import Sequence

from assistants.config import ServerConfig
from assistants.domain.model import Model, ModelAlias, ModelState
from runtime.engines.base import Engine
from runtime.engines.embedded import EmbeddedEngine
from runtime.engines.openai_flavour import Flavour
from runtime.engines.openai_http import OpenAIHttpEngine
from runtime.engines.pool import PooledEngine
from runtime.engines.remote import RemoteEngine
from runtime.errors import EngineUnavailable
from runtime.models.catalog import ALIASES, MODELS
from runtime.models.store import InstalledModel, ModelStore
from runtime.testing import ScriptedEngine
from runtime.worker.spec import WorkerSpec

_DEFAULT_SLOTS = 4
_DEFAULT_CONTEXT_TOKENS = 8_192
_SCRIPTED_SLOTS = 64
_SCRIPTED_CONTEXT_TOKENS = 1_000_000

_logger = logging.getLogger(__name__)


async def start_engine(config: ServerConfig) -> Engine:
    """Starts it and waits until it answers.

    Raises:
        ModelError: the model is unknown, not installed, or corrupt.
        WorkerStartFailed: its process did not come up.
        EngineError: a server or worker of somebody else does not answer, or is not what it should be.
    """
    match config.engine:
        case "workers":
            return await _connect_workers(config.workers)
        case "server":
            return await OpenAIHttpEngine.connect(
                config.engine_url,
                flavour=Flavour(config.engine_flavour) if config.engine_flavour else None,
                model=config.engine_model,
                api_key=config.engine_api_key,
                context_tokens=config.context_tokens,
                slots=config.slots,
            )
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


async def _connect_workers(targets: Sequence[str]) -> Engine:
    """A client of one worker, or a pool of several, of which one has to answer."""
    if len(targets) == 1:
        return await RemoteEngine.connect(targets[0])
    results = await asyncio.gather(*map(RemoteEngine.connect, targets), return_exceptions=True)
    engines: dict[str, RemoteEngine] = {}
    failures: list[BaseException] = []
    for target, result in zip(targets, results, strict=True):
        if isinstance(result, RemoteEngine):
            engines[target] = result
        else:
            failures.append(result)
    try:
        for failure in failures:
            if not engines or not isinstance(failure, EngineUnavailable):
                raise failure
            _logger.warning("%s It will be used once it does.", failure)
        present = next(iter(engines.values()))
        absent = [target for target in targets if target not in engines]
        absentees = {target: RemoteEngine.at(target, present.model) for target in absent}
        return PooledEngine(engines | absentees, absent=absent)
    except BaseException:
        await asyncio.gather(*(engine.aclose() for engine in engines.values()))
        raise


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
        logprobs=info.logprobs,
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
