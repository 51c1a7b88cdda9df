"""A completion as llama.cpp reads and writes it: JSON in, chunks of JSON out."""

import http.client
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.errors import ContextExceeded, EngineError, EngineFault, PromptRejected
from runtime.events import PromptProgress
from runtime.types import FinishReason, LikelyToken, Sampling, Timings, TokenLogprob, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A prompt to continue."""

    prompt: Sequence[int]
    """Token ids, fewer than the context has."""
    max_tokens: int
    """At least 1; of each sample."""
    grammar: str | None = None
    """llguidance's Lark, known to compile: one that does not is dropped without a word."""
    samples: int = 1
    """Continuations that share the prompt, each in a slot of its own."""
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    top_logprobs: int | None = None
    """Likeliest tokens to tell with each token; None is no logprobs."""

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
            # Chunks say how many tokens there are: one may hold several, or end none.
            "timings_per_token": True,
        }
        if self.stop:
            fields["stop"] = list(self.stop)
        if self.grammar is not None:
            fields["grammar"] = self.grammar
        if self.samples > 1:
            fields["n"] = self.samples
        if self.top_logprobs is not None:
            # 0 would be none at all.
            fields["logprobs"] = max(1, self.top_logprobs)
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
class Piece:
    """Text that a sample grew by."""

    text: str
    sample: int = 0
    usage: Usage
    """Of the sample so far."""
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] = ()

    def __add__(self, later: "Piece") -> "Piece":
        return replace(later, text=self.text + later.text, logprobs=self.logprobs + later.logprobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The last chunk of a sample. Its timings know no queue and no preparation."""

    sample: int = 0
    finish_reason: FinishReason
    usage: Usage
    timings: Timings


Chunk = PromptProgress | Piece | Completed


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
        if choice["text"] or choice["logprobs"]:
            timings = chunk["timings"]
            yield Piece(
                text=choice["text"],
                sample=choice["index"],
                usage=Usage(
                    input_tokens=timings["cache_n"] + timings["prompt_n"],
                    output_tokens=timings["predicted_n"],
                    cached_input_tokens=timings["cache_n"],
                ),
                timings=_timings(timings),
                logprobs=_logprobs(choice["logprobs"]),
            )
        if reason := choice["finish_reason"]:
            yield _completed(choice["index"], reason, chunk["usage"], chunk["timings"])


def joined(chunks: Iterator[Chunk]) -> list[Chunk]:
    """Joins neighbouring pieces of one sample."""
    result: list[Chunk] = []
    for chunk in chunks:
        last = result[-1] if result else None
        if isinstance(chunk, Piece) and isinstance(last, Piece) and chunk.sample == last.sample:
            result[-1] = last + chunk
        else:
            result.append(chunk)
    return result


def _completed(sample: int, reason: str, usage: dict[str, Any], timings: dict[str, Any]) -> Completed:
    return Completed(
        sample=sample,
        finish_reason=FinishReason.LENGTH if reason == "length" else FinishReason.STOP,
        usage=Usage(
            input_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            cached_input_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        ),
        timings=_timings(timings),
    )


def _timings(timings: dict[str, Any]) -> Timings:
    return Timings(prompt_s=timings["prompt_ms"] / 1_000, generate_s=timings["predicted_ms"] / 1_000)


def _logprobs(logprobs: dict[str, Any] | None) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(
            token=token["token"],
            logprob=token["logprob"],
            token_bytes=bytes(token["bytes"]),
            top=tuple(
                LikelyToken(token=top["token"], logprob=top["logprob"], token_bytes=bytes(top["bytes"]))
                for top in token["top_logprobs"]
            ),
        )
        for token in (logprobs["content"] if logprobs else ())
    )


def to_error(error: dict[str, Any]) -> EngineError:
    """Reads the error that llama.cpp gives in place of an answer."""
    message = str(error.get("message", "no reason given"))
    if error.get("type") == "exceed_context_size_error":
        return ContextExceeded(prompt_tokens=error["n_prompt_tokens"], context_tokens=error["n_ctx"])
    if error.get("code") == http.client.BAD_REQUEST:
        return PromptRejected(f"llama.cpp refuses the prompt: {message}")
    return EngineFault(f"llama.cpp failed: {message}")
