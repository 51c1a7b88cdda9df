"""Errors of the runtime.

RuntimeFault
├── EngineError              an engine did not do its work
│   ├── EngineUnavailable    it died, or does not answer: the turn may be retried
│   ├── EngineOverloaded     its queue is full: try again later
│   ├── EngineFault          it broke a promise: nothing to retry
│   └── PromptRejected       the prompt cannot be carried out
│       └── ContextExceeded  it is longer than the context
├── ModelError               a model cannot be had
│   ├── UnknownModel
│   ├── ModelNotInstalled
│   ├── ModelCorrupt
│   └── PullFailed
└── WorkerStartFailed        the worker process did not come up
"""


class RuntimeFault(Exception):
    """Root of the errors of this package."""


class EngineError(RuntimeFault):
    """An engine did not do its work."""


class EngineUnavailable(EngineError):
    """The engine died, or does not answer. The turn may be retried."""


class EngineOverloaded(EngineError):
    """The engine's queue is full. Try again later."""


class EngineFault(EngineError):
    """The engine broke a promise, such as a stream without an end. Not retried."""


class PromptRejected(EngineError):
    """The prompt cannot be carried out, whoever tries."""


class ContextExceeded(PromptRejected):
    """The prompt is longer than the context."""

    def __init__(self, *, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"The prompt has {prompt_tokens} tokens; the context of the model has {context_tokens}."
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class ModelError(RuntimeFault):
    """A model cannot be had."""


class UnknownModel(ModelError):
    """The catalogue has no model of that name."""


class ModelNotInstalled(ModelError):
    """The model is known, but has not been pulled."""


class ModelCorrupt(ModelError):
    """The file is not the model that it should be."""


class PullFailed(ModelError):
    """The model could not be fetched."""


class WorkerStartFailed(RuntimeFault):
    """The worker process did not come up; the message is one line for people."""
