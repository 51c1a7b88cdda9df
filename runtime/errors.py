"""Errors of the runtime.

RuntimeFault
├── EngineError              an engine did not do its work
│   ├── EngineUnavailable    it died, or does not answer: the turn may be retried
│   ├── EngineOverloaded     its queue is full: try again later
│   ├── EngineFault          it broke a promise: nothing to retry
│   ├── OutputInvalid        the answer misses what no grammar can express: ask again
│   └── PromptRejected       the prompt cannot be carried out
│       ├── ContextExceeded  it is longer than the context
│       └── SchemaRejected   a JSON Schema cannot be used
├── ModelError               a model cannot be had
│   ├── UnknownModel
│   ├── ModelNotInstalled
│   ├── ModelCorrupt
│   └── PullFailed
└── WorkerStartFailed        the worker process did not come up
"""

from runtime.types import Usage


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


class SchemaRejected(PromptRejected):
    """A JSON Schema cannot be used."""

    def __init__(self, rule: str, *, subject: str, path: str = "") -> None:
        """Args give the rule and the value that breaks it, whose schema it is, and where in it.

        Args:
            rule: such as "keyword 'uniqueItems' is not in the strict subset".
            subject: field of the request that holds the schema, such as `tools[0].function.parameters_json`.
            path: JSON pointer into the schema, such as `/properties/age`; empty is its root.
        """
        super().__init__(f"{subject}: at {path or 'the root'} of the schema: {rule}")
        self.rule = rule
        self.subject = subject
        self.path = path


class OutputInvalid(EngineError):
    """The answer misses rules of its schema that no grammar can express. Nothing of it was given."""

    def __init__(self, *, document: str, violations: tuple[str, ...], usage: Usage) -> None:
        """Args give the answer, what it misses, and the tokens that it took."""
        super().__init__(f"The answer does not satisfy its schema: {'; '.join(violations)}")
        self.document = document
        self.violations = violations
        self.usage = usage

    def after(self, usage: Usage) -> "OutputInvalid":
        """The same error with the tokens of all that was done for the answer."""
        return OutputInvalid(document=self.document, violations=self.violations, usage=usage)


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
