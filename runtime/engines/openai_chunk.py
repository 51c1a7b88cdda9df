"""One event of a Chat Completions stream, as servers write it.

Source: OpenAI's API reference, "The chat completion chunk object". Beyond it: `reasoning_content`
(SGLang, llama-server, vLLM before 0.12) and `reasoning` (vLLM, Ollama) in deltas, `reasoning_tokens` at the
top of usage (SGLang), `prompt_progress` (llama-server).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.engines.openai_client import to_error
from runtime.errors import EngineFault
from runtime.types import LikelyToken, TokenLogprob, Usage

_MOST_SHOWN_CHARACTERS = 200
_SERVER_FAILED = 500


class _Part(BaseModel):
    # Servers add fields as they like.
    model_config = ConfigDict(extra="ignore", frozen=True)


class FunctionPart(_Part):
    """A piece of a call."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    """A piece of the JSON text; some servers give the whole as an object."""


class ToolCallPart(_Part):
    """A piece of one of the calls."""

    index: int | None = None
    id: str | None = None
    function: FunctionPart = FunctionPart()


class Delta(_Part):
    """What came since the last event."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallPart] | None = None

    @property
    def thought(self) -> str:
        """The piece of the thought, by whichever name."""
        return self.reasoning_content or self.reasoning or ""


class _Likely(_Part):
    token: str
    logprob: float
    bytes: list[int] | None = None

    def value(self) -> LikelyToken:
        token_bytes = self.token.encode() if self.bytes is None else bytes(self.bytes)
        return LikelyToken(token=self.token, logprob=self.logprob, token_bytes=token_bytes)


class _TokenLogprob(_Likely):
    top_logprobs: list[_Likely] | None = None


class _Logprobs(_Part):
    content: list[_TokenLogprob] | None = None


class Choice(_Part):
    """What came of one answer."""

    index: int = 0
    delta: Delta = Delta()
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None

    def tokens(self, top: int) -> tuple[TokenLogprob, ...]:
        """How likely the tokens were, with the `top` likeliest in the place of each."""
        listed = self.logprobs.content if self.logprobs else None
        return tuple(
            TokenLogprob(
                token=(chosen := token.value()).token,
                logprob=chosen.logprob,
                token_bytes=chosen.token_bytes,
                top=tuple(likely.value() for likely in (token.top_logprobs or ())[:top]),
            )
            for token in listed or ()
        )


class _PromptDetails(_Part):
    cached_tokens: int | None = None


class _CompletionDetails(_Part):
    reasoning_tokens: int | None = None


class UsagePart(_Part):
    """Tokens that the server counted."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    reasoning_tokens: int | None = None

    @property
    def thought_tokens(self) -> int | None:
        """Tokens of the thought; None when the server does not tell them apart."""
        if self.completion_tokens_details and self.completion_tokens_details.reasoning_tokens:
            return self.completion_tokens_details.reasoning_tokens
        return self.reasoning_tokens or None

    def value(self, *, thought_tokens: int) -> Usage:
        """Usage in which the parts are no more than the whole."""
        output_tokens = self.completion_tokens or 0
        cached = (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0
        return Usage(
            input_tokens=self.prompt_tokens,
            output_tokens=output_tokens,
            cached_input_tokens=min(cached, self.prompt_tokens),
            reasoning_output_tokens=min(thought_tokens, output_tokens),
        )


class _Progress(_Part):
    total: int
    cache: int = 0
    processed: int


class Chunk(_Part):
    """One event."""

    choices: list[Choice] = []
    usage: UsagePart | None = None
    prompt_progress: _Progress | None = None
    error: Any = None


def parse_chunk(data: str) -> Chunk:
    """Reads the data of an event.

    Raises:
        EngineError: it is an error, as `to_error` says.
        EngineFault: it is no chunk.
    """
    try:
        chunk = Chunk.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        shown = data[:_MOST_SHOWN_CHARACTERS]
        raise EngineFault(
            f"The server sent what is no chunk: {problem['msg']} at {where or 'the root'}: {shown}"
        ) from error
    if chunk.error:
        code = chunk.error.get("code") if isinstance(chunk.error, dict) else None
        raise to_error(code if isinstance(code, int) else _SERVER_FAILED, data)
    return chunk
