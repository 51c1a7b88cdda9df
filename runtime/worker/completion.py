"""A completion as llama.cpp reads and writes it: JSON in, chunks of JSON out."""

import http.client
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import ContextExceeded, EngineError, EngineFault, PromptRejected
from runtime.events import PromptProgress
from runtime.types import FinishReason, Sampling, Timings, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A prompt to continue."""

    prompt: Sequence[int]
    """Token ids, fewer than the context has."""
    max_tokens: int
    """At least 1."""
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    def body(self) -> str:
        """Writes the request as llama.cpp reads it."""
        fields: dict[str, Any] = {
            "prompt": list(self.prompt),
            "max_tokens": self.max_tokens,
            "cache_prompt": True,
            # Only a stream can be cancelled, and only progress while a prompt is read.
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }
        if self.stop:
            fields["stop"] = list(self.stop)
        chosen = {
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": self.sampling.seed,
            "presence_penalty": self.sampling.presence_penalty,
            "frequency_penalty": self.sampling.frequency_penalty,
        }
        fields.update({name: value for name, value in chosen.items() if value is not None})
        return json.dumps(fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The last chunk of a completion. Its timings know no queue and no preparation."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings


Chunk = PromptProgress | str | Completed
"""A string is a piece of text."""


def parse_chunk(text: str) -> Iterator[Chunk]:
    """Reads one chunk of a stream.

    Raises:
        ContextExceeded, PromptRejected, EngineFault: it is an error.
    """
    chunk = json.loads(text)
    if "error" in chunk:
        raise to_error(chunk["error"])
    if progress := chunk.get("prompt_progress"):
        yield PromptProgress(tokens_read=progress["processed"], tokens=progress["total"])
    for choice in chunk["choices"]:
        if text := choice["text"]:
            yield text
        if reason := choice["finish_reason"]:
            yield _completed(reason, chunk["usage"], chunk["timings"])


def _completed(reason: str, usage: dict[str, Any], timings: dict[str, Any]) -> Completed:
    return Completed(
        finish_reason=FinishReason.LENGTH if reason == "length" else FinishReason.STOP,
        usage=Usage(
            input_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            cached_input_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        ),
        timings=Timings(prompt_s=timings["prompt_ms"] / 1_000, generate_s=timings["predicted_ms"] / 1_000),
    )


def to_error(error: dict[str, Any]) -> EngineError:
    """Reads the error that llama.cpp gives in place of an answer."""
    message = str(error.get("message", "no reason given"))
    if error.get("type") == "exceed_context_size_error":
        return ContextExceeded(prompt_tokens=error["n_prompt_tokens"], context_tokens=error["n_ctx"])
    if error.get("code") == http.client.BAD_REQUEST:
        return PromptRejected(f"llama.cpp refuses the prompt: {message}")
    return EngineFault(f"llama.cpp failed: {message}")
