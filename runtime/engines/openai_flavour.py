"""Which server of OpenAI's API is at the other end, and what it says of its model.

Sources, of the versions of 2026: vLLM `vllm/entrypoints/openai`, SGLang
`python/sglang/srt/entrypoints/openai`, llama.cpp `tools/server/README.md`, Ollama `docs/api` and
`openai/openai.go`, text-generation-inference `router/src/lib.rs`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

from runtime.engines.openai_client import OpenAIClient
from runtime.errors import EngineError, EngineFault
from runtime.types import ModelInfo

_DEFAULT_SLOTS = 16
"""Servers that batch continuously do not tell how many requests they take."""
_LOAD_TIMEOUT_S = 300.0
_LONGEST_NAME = 128


class Flavour(StrEnum):
    """A kind of server; the value is the provider of its models."""

    OPENAI = "openai"
    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMA_SERVER = "llama_server"
    OLLAMA = "ollama"
    TGI = "tgi"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model of a server."""

    flavour: Flavour
    id: str
    """What the server calls it."""
    info: ModelInfo
    tokenizes: bool
    """Whether the server counts tokens for us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a flavour tells beyond OpenAI's API; None where it does not."""

    context_tokens: int | None = None
    slots: int | None = None
    native_reasoning: bool = False


async def probe(
    client: OpenAIClient,
    *,
    flavour: Flavour | None = None,
    model: str | None = None,
    context_tokens: int | None = None,
    slots: int | None = None,
) -> ServedModel:
    """Finds out what is needed of a server, by a few requests.

    Args:
        client: of the server.
        flavour: None looks for it: `owned_by` of the models, `/api/version` of Ollama, `/info` of
            text-generation-inference, else plain OpenAI.
        model: id of the model; None is the only one that the server has.
        context_tokens: None is what the server says.
        slots: None is what the server says, else 16.

    Raises:
        EngineUnavailable: the server does not answer.
        EngineFault: it has no such model, several models and none was named, or does not tell the context.
    """
    listed = await client.ask("models")
    models = listed.get("data") or [] if isinstance(listed, dict) else []
    card = _card(client.url, [entry for entry in models if isinstance(entry, dict)], model)
    model_id = str(card["id"])
    flavour = flavour or await _detect(client, card)
    facts = await _facts(client, flavour, model_id, card)
    context = context_tokens or facts.context_tokens
    if context is None:
        raise EngineFault(
            f"The server at {client.url} does not tell the context of {model_id}: configure context_tokens."
        )
    info = ModelInfo(
        name=_name(model_id),
        provider=flavour.value,
        context_tokens=context,
        slots=slots or facts.slots or _DEFAULT_SLOTS,
        native_reasoning=facts.native_reasoning,
        embeddings=await _works(client, "embeddings", {"model": model_id, "input": ["a"]}),
        logprobs=flavour not in {Flavour.OLLAMA, Flavour.TGI},
    )
    tokenizes = False
    if (asked := tokenize_request(flavour, model_id, "a")) is not None:
        tokenizes = await _works(client, *asked)
    return ServedModel(flavour=flavour, id=model_id, info=info, tokenizes=tokenizes)


def health_path(flavour: Flavour) -> str:
    """Path that answers 200 when a generation would start now."""
    match flavour:
        case Flavour.OPENAI | Flavour.OLLAMA:
            return "models"
        case Flavour.VLLM | Flavour.SGLANG | Flavour.LLAMA_SERVER | Flavour.TGI:
            return "/health"
        case _:
            assert_never(flavour)


def tokenize_request(flavour: Flavour, model_id: str, text: str) -> tuple[str, dict[str, object]] | None:
    """Path and body that tokenise a text without special tokens; None where there is no such path."""
    match flavour:
        case Flavour.VLLM | Flavour.SGLANG:
            return "/tokenize", {"model": model_id, "prompt": text, "add_special_tokens": False}
        case Flavour.LLAMA_SERVER:
            return "/tokenize", {"content": text, "add_special": False}
        case Flavour.TGI:
            return "/tokenize", {"inputs": text}
        case Flavour.OPENAI | Flavour.OLLAMA:
            return None
        case _:
            assert_never(flavour)


def token_count(answer: Any) -> int:
    """Reads the answer to `tokenize_request`.

    Raises:
        EngineFault: it has no count and no tokens.
    """
    if isinstance(answer, dict):
        if isinstance(count := answer.get("count"), int):
            return count
        answer = answer.get("tokens")
    if not isinstance(answer, list):
        raise EngineFault("The server counted no tokens.")
    return len(answer)


def _card(url: str, cards: list[dict[str, Any]], model: str | None) -> Mapping[str, Any]:
    ids = [str(card.get("id", "")) for card in cards]
    known = ", ".join(ids) or "none"
    if model is None:
        if len(cards) != 1:
            raise EngineFault(f"The server at {url} has several models, or none: name one of: {known}.")
        return cards[0]
    for card, card_id in zip(cards, ids, strict=True):
        # Ollama takes a name without its tag for the latest.
        if model in {card_id, card_id.removesuffix(":latest"), *(card.get("aliases") or ())}:
            return card
    raise EngineFault(f"The server at {url} has no model {model!r}. It has: {known}.")


async def _detect(client: OpenAIClient, card: Mapping[str, Any]) -> Flavour:
    match card.get("owned_by"):
        case "vllm":
            return Flavour.VLLM
        case "sglang":
            return Flavour.SGLANG
        case "llamacpp":
            return Flavour.LLAMA_SERVER
    if "version" in await _optional(client, "/api/version"):
        return Flavour.OLLAMA
    if "max_total_tokens" in await _optional(client, "/info"):
        return Flavour.TGI
    return Flavour.OPENAI


async def _facts(client: OpenAIClient, flavour: Flavour, model_id: str, card: Mapping[str, Any]) -> _Facts:
    match flavour:
        case Flavour.OPENAI | Flavour.VLLM | Flavour.SGLANG:
            return _Facts(context_tokens=_count(card, "max_model_len"))
        case Flavour.LLAMA_SERVER:
            properties = await _optional(client, "/props")
            template = str(properties.get("chat_template", ""))
            return _Facts(
                context_tokens=_count(card.get("meta"), "n_ctx")
                or _count(properties.get("default_generation_settings"), "n_ctx"),
                slots=_count(properties, "total_slots"),
                native_reasoning="<think>" in template or "enable_thinking" in template,
            )
        case Flavour.OLLAMA:
            # A request without a prompt loads the model; what is loaded has a context.
            await client.ask("/api/generate", {"model": model_id, "stream": False}, timeout_s=_LOAD_TIMEOUT_S)
            loaded = (await _optional(client, "/api/ps")).get("models") or []
            shown = await _optional(client, "/api/show", {"model": model_id})
            return _Facts(
                context_tokens=next(
                    (_count(entry, "context_length") for entry in loaded if entry.get("name") == model_id),
                    None,
                ),
                native_reasoning="thinking" in (shown.get("capabilities") or ()),
            )
        case Flavour.TGI:
            told = await _optional(client, "/info")
            return _Facts(
                context_tokens=_count(told, "max_total_tokens"), slots=_count(told, "max_concurrent_requests")
            )
        case _:
            assert_never(flavour)


async def _optional(
    client: OpenAIClient, path: str, body: Mapping[str, object] | None = None
) -> Mapping[str, Any]:
    """Asks for an object that not every server has; empty is none."""
    try:
        answer = await client.ask(path, body)
    except EngineError:
        return {}
    return answer if isinstance(answer, dict) else {}


async def _works(client: OpenAIClient, path: str, body: Mapping[str, object]) -> bool:
    try:
        return await client.ask(path, body) is not None
    except EngineError:
        return False


def _count(document: object, key: str) -> int | None:
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, int) and value > 0 else None


def _name(model_id: str) -> str:
    """The last part of a path or a repository, in characters that a resource name may have."""
    name = re.sub(r"[^A-Za-z0-9._:-]+", "-", model_id.rstrip("/").rpartition("/")[2]).lstrip("._:-")
    return name[:_LONGEST_NAME] or "model"
