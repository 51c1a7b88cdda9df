"""What a worker is asked to serve."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One model, and how much of the machine it gets."""

    model_path: Path
    """A GGUF file."""
    name: str
    """What clients call the model."""
    slots: int = 4
    """Generations that run at the same time, at least 1."""
    context_tokens: int = 4_096
    """Of one slot; capped at what the model was trained for."""
    threads: int | None = None
    """For computing; None is 1 for a small model, else one a CPU."""
    cache_mib: int = 1_024
    """Memory for the prefixes of threads that hold no slot."""
    queue_length: int = 256
    """Requests that may wait for a slot."""
    embeddings: bool = False
    native_reasoning: bool = False
    """Whether the model was trained to think in tags of its own."""

    def arguments(self) -> list[str]:
        """Writes the spec as arguments of `python -m runtime.worker`."""
        arguments = ["--model-path", str(self.model_path), "--name", self.name]
        arguments += ["--slots", str(self.slots), "--context-tokens", str(self.context_tokens)]
        arguments += ["--cache-mib", str(self.cache_mib), "--queue-length", str(self.queue_length)]
        if self.threads is not None:
            arguments += ["--threads", str(self.threads)]
        if self.embeddings:
            arguments.append("--embeddings")
        if self.native_reasoning:
            arguments.append("--native-reasoning")
        return arguments
