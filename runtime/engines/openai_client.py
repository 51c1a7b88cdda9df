"""HTTP to a server of OpenAI's API: JSON answers, streams of server-sent events, and what its errors mean.

Sources: server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html; error bodies of
OpenAI, vLLM, SGLang, llama-server, Ollama and text-generation-inference as their servers write them.
"""

import json
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from runtime.errors import (
    ContextExceeded,
    EngineError,
    EngineFault,
    EngineOverloaded,
    EngineUnavailable,
    PromptRejected,
)

_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 60.0
_MOST_LINE_BYTES = 64 << 20
_MOST_REASON_CHARACTERS = 500

# A server reads a long prompt for minutes without a word, so a stream has no
# timeout. A machine that is gone says nothing either: only a probe finds out.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)

# How servers word it when prompt and answer do not fit, with the figures in it.
_CONTEXT_TOKENS = re.compile(
    r"(?:context length (?:is |of |\()|context size \(|must be <= |must have less than )([0-9]+)"
)
_PROMPT_TOKENS = re.compile(
    r"([0-9]+) (?:in the messages|input tokens|tokens from the input|`inputs` tokens)"
    r"|(?:resulted in |[Tt]he input \(|request \(|tokens\. Given: )([0-9]+)"
)


class NoRoom(PromptRejected):
    """The prompt fits the context, but not with as many tokens of answer as were asked for."""

    def __init__(self, reason: str, *, room_tokens: int) -> None:
        super().__init__(reason)
        self.room_tokens = room_tokens
        """What the prompt leaves for the answer."""


class OpenAIClient:
    """Asks one server. Knows no flavour, and nothing of what is asked."""

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        """Connects on the first call.

        Args:
            url: where the API is, such as `http://host:8000/v1`.
            api_key: sent as a bearer token, and told to nobody else.
        """
        self.url = url.rstrip("/")
        self._root = self.url.removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Neither proxies nor .netrc of the environment: an engine is reached directly, with its own key.
        self._http = httpx2.AsyncClient(
            headers=headers,
            transport=httpx2.AsyncHTTPTransport(
                trust_env=False,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32),
                socket_options=_KEEPALIVE,
            ),
            timeout=httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,
        )

    async def ask(
        self, path: str, body: Mapping[str, object] | None = None, *, timeout_s: float = _ANSWER_TIMEOUT_S
    ) -> Any:
        """Asks for JSON: POST with a body, else GET.

        Args:
            path: under the API, such as `models`; with a leading slash, beside it, such as `/health`.
            body: what to post.
            timeout_s: for the whole answer.

        Returns:
            The document; None when the answer has no JSON in it.

        Raises:
            EngineError: as `to_error` says, when the status is not 200.
            EngineUnavailable: the server does not answer.
        """
        with_body = {} if body is None else _json_body(body)
        async with self._answering():
            response = await self._http.request(
                "GET" if body is None else "POST", self._at(path), timeout=timeout_s, **with_body
            )
        if response.status_code != httpx2.codes.OK:
            raise to_error(response.status_code, response.text)
        try:
            return response.json()
        except ValueError:
            return None

    async def stream(self, path: str, body: Mapping[str, object]) -> AsyncGenerator[str]:
        """Posts a request and gives the data of each event of the answer, up to its end or `[DONE]`.

        Raises:
            EngineError: as `to_error` says, when the status is not 200.
            EngineUnavailable: the server does not answer, or the connection broke.
            EngineFault: the answer is no stream.
        """
        async with (
            self._answering(),
            self._http.stream("POST", self._at(path), **_json_body(body)) as response,
        ):
            if response.status_code != httpx2.codes.OK:
                await response.aread()
                raise to_error(response.status_code, response.text)
            kind = response.headers.get("content-type", "nothing")
            if not kind.startswith("text/event-stream"):
                raise EngineFault(f"The server at {self.url} answered with {kind} in place of a stream.")
            async for data in _events(response.aiter_bytes()):
                if data == "[DONE]":
                    return
                yield data

    async def aclose(self) -> None:
        """Breaks all connections. May be called twice."""
        await self._http.aclose()

    def _at(self, path: str) -> str:
        return f"{self._root}{path}" if path.startswith("/") else f"{self.url}/{path}"

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        try:
            yield
        except (httpx2.RequestError, httpx2.StreamError, httpx2.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise EngineUnavailable(f"The server at {self.url} does not answer: {reason}") from error
        except RuntimeError as error:
            # All that the client says of being closed.
            if not self._http.is_closed:
                raise
            raise EngineUnavailable("The engine is closed.") from error


def to_error(status: int, text: str) -> EngineError:
    """What an answer other than 200, or an error within a stream, means.

    Args:
        status: of HTTP.
        text: the body, or the error of the stream; JSON or not.
    """
    details = _details(text)
    reason = " ".join(str(details.get("message", text)).split())[:_MOST_REASON_CHARACTERS]
    said = f"The server answered {status}: {reason or 'nothing'}"
    match status:
        case 400 | 413 | 422:
            return _context_error(details, reason) or PromptRejected(
                f"The server refuses the request: {reason}"
            )
        case 429:
            return EngineOverloaded(said)
        case 503:
            loading = "loading" in reason.lower()
            return EngineUnavailable(said) if loading else EngineOverloaded(said)
        case 401 | 403:
            return EngineFault(f"The server refuses the API key: {reason}")
        # 424 is how text-generation-inference says that its model failed.
        case 408 | 424:
            return EngineUnavailable(said)
        case _:
            return (
                EngineUnavailable(said) if status >= httpx2.codes.INTERNAL_SERVER_ERROR else EngineFault(said)
            )


def _context_error(details: Mapping[str, Any], reason: str) -> PromptRejected | None:
    prompt, context = details.get("n_prompt_tokens"), details.get("n_ctx")
    if prompt is None or context is None:
        prompt_match, context_match = _PROMPT_TOKENS.search(reason), _CONTEXT_TOKENS.search(reason)
        if prompt_match is None or context_match is None:
            return None
        prompt, context = prompt_match[1] or prompt_match[2], context_match[1]
    prompt_tokens, context_tokens = int(prompt), int(context)
    if prompt_tokens < context_tokens:
        return NoRoom(f"The server refuses the request: {reason}", room_tokens=context_tokens - prompt_tokens)
    return ContextExceeded(prompt_tokens=prompt_tokens, context_tokens=context_tokens)


def _details(text: str) -> Mapping[str, Any]:
    """Finds the error in a body: `{"error": {...}}`, `{"error": "..."}`, `{"detail": ...}`, or bare."""
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(body, dict):
        return {}
    error = body.get("error", body)
    if isinstance(error, dict):
        return error if "message" in error else {"message": error.get("detail", text)}
    return {"message": error}


def _json_body(body: Mapping[str, object]) -> dict[str, Any]:
    # Lone surrogates, which no wire carries, become question marks.
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    return {"content": content, "headers": {"Content-Type": "application/json"}}


async def _events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """Gives the data of each event. Lines end at line feeds only: JSON has other line separators in it."""
    rest = b""
    data: list[bytes] = []
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _MOST_LINE_BYTES:
            raise EngineFault(f"The server sent a line of more than {_MOST_LINE_BYTES >> 20} MiB.")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data).decode("utf-8", "replace")
                data.clear()
