"""What one turn of the model may consist of, and the grammar that lets nothing else through."""

import json
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from llguidance import LLMatcher

from runtime.chat.call_layout import FENCE, FENCE_END, LOOSE_END, LOOSE_HEAD, LOOSE_NECK
from runtime.chat.transcript import CALL_CLOSE, CALL_OPEN, call_head
from runtime.errors import PromptRejected
from runtime.output.compile import CompiledSchema, compile_arguments, compile_object, compile_schema
from runtime.output.walk import byte_tokenizer
from runtime.types import (
    GenerateRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedToolChoice,
    TextFormat,
    ToolChoiceMode,
)

MOST_CALLS = 16
"""Calls in one turn: a weak model would repeat itself until a limit."""

_TAG = CALL_OPEN.strip()
_GRAMMARS_CACHED = 1_024
_LIKE_SPECIAL_TOKENS = re.compile(r"<[^\s<>\"]+>|\[/?[A-Z_]+\]")
"""Texts that models have special tokens for, such as `<|im_end|>` and `[INST]`."""


class Calls(Enum):
    """Whether a turn calls tools."""

    NEVER = "never"
    MAYBE = "maybe"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallableTool:
    """A tool that the turn may call."""

    name: str
    arguments: CompiledSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnForm:
    """A turn is calls, or an answer: text, or the document of a schema."""

    calls: Calls = Calls.NEVER
    tools: tuple[CallableTool, ...] = ()
    """Those that may be called."""
    tool_names: tuple[str, ...] = ()
    """All that the model was told of: a text must not look like a call of one."""
    parallel: bool = True
    """Whether there may be several calls."""
    document: CompiledSchema | None = None
    """None is text."""

    @property
    def held(self) -> bool:
        """Whether documents and calls are held back until they have been validated."""
        return not all(schema.exact for schema in self._schemas())

    @property
    def mixed(self) -> bool:
        """Whether calls may come after text. Not after text that is already given, if they may be refused."""
        return self.calls is Calls.MAYBE and self.document is None and not self.held

    @property
    def untagged(self) -> bool:
        """Whether a call may come without its tag; beside a document it could be taken for it."""
        return self.calls is Calls.MAYBE and self.document is None

    def grammar(self) -> str | None:
        """The grammar of the turn, in llguidance's dialect of Lark; None when any text will do.

        Raises:
            PromptRejected: the schemas compile one by one, but not together.
        """
        if self.document is None and not self.tool_names:
            return None
        return _checked(self._write())

    def _write(self) -> str:
        # Where only one text can follow, llama.cpp asks for its tokens, and takes a special one for its text.
        rules = [f"%llguidance {json.dumps({'no_forcing': self._has_like_special_tokens()})}"]
        starts = []
        if self.calls is not Calls.NEVER:
            rules += self._call_rules()
            starts += self._calls()
            if self.mixed:
                # Text and tag are one lexeme: the lexer is greedy, and would not end the first at the second.
                rules.append(f"talk[lazy]: TEXT {json.dumps(CALL_OPEN)}")
                rules.append("code[lazy]: TEXT FENCED_HEAD")
                starts.append(f"talk object {json.dumps(CALL_CLOSE)} {self._more('tagged')}")
                starts.append("code loose FENCE_END")
        if self.calls is not Calls.ALWAYS:
            if self.document is not None:
                rules.append(f"document: %json {self.document.grammar_json}")
                starts.append("document")
            else:
                rules.append(f"TEXT: {_text_that_is_no_call(self.tool_names)}")
                starts.append("TEXT")
        rules.append(f"start: {' | '.join(starts)}")
        return "\n".join(rules)

    def _schemas(self) -> list[CompiledSchema]:
        arguments = [tool.arguments for tool in self.tools]
        return arguments if self.document is None else [*arguments, self.document]

    def _has_like_special_tokens(self) -> bool:
        return any(_LIKE_SPECIAL_TOKENS.search(schema.grammar_json) for schema in self._schemas())

    def _calls(self) -> list[str]:
        forms = ["tagged", "bare", "fenced"] if self.untagged else ["tagged"]
        return [f"{form} {self._more(form)}" for form in forms]

    def _more(self, form: str) -> str:
        return f'( "\\n" {form} ){{0,{MOST_CALLS - 1}}}' if self.parallel else ""

    def _call_rules(self) -> list[str]:
        rules = [f"tagged: {json.dumps(CALL_OPEN)} object {json.dumps(CALL_CLOSE)}"]
        for index, tool in enumerate(self.tools):
            rules.append(f'call{index}: {json.dumps(call_head(tool.name))} arguments{index} "}}"')
            rules.append(f"arguments{index}: %json {tool.arguments.grammar_json}")
        rules.append(f"object: {self._any('call')}")
        if self.untagged:
            rules += [
                f"BARE_HEAD: /{_slashed(LOOSE_HEAD)}/",
                f"FENCED_HEAD: /{_slashed(FENCE + LOOSE_HEAD)}/",
                f"LOOSE_END: /{LOOSE_END}/",
                f"FENCE_END: {json.dumps(FENCE_END)}",
                "bare: BARE_HEAD loose",
                "fenced: FENCED_HEAD loose FENCE_END",
            ]
            for index, tool in enumerate(self.tools):
                rules.append(f"LOOSE{index}: /{re.escape(tool.name)}{LOOSE_NECK}/")
                rules.append(f"loose{index}: LOOSE{index} arguments{index} LOOSE_END")
            rules.append(f"loose: {self._any('loose')}")
        return rules

    def _any(self, rule: str) -> str:
        return " | ".join(f"{rule}{index}" for index in range(len(self.tools)))


def turn_form(request: GenerateRequest, *, room_tokens: int | None = None) -> TurnForm:
    """Works out what the turn of a request may consist of; compiles its schemas. Takes milliseconds.

    Args:
        request: tools, tool choice and response format count.
        room_tokens: tokens that the turn may have; unbounded texts and lists are bounded by them.

    Raises:
        SchemaRejected: a schema cannot be used.
        PromptRejected: the tool choice names no tool, or there is none to choose.
    """
    document = None
    match request.response_format:
        case TextFormat():
            pass
        case JsonObjectFormat():
            document = compile_object(room_tokens=room_tokens)
        case JsonSchemaFormat(schema_json=schema_json, strict=strict):
            document = compile_schema(
                schema_json, strict=strict, subject="response_format", room_tokens=room_tokens
            )
    names = tuple(tool.name for tool in request.tools)
    if len(set(names)) < len(names):
        raise PromptRejected("Two tools have the same name.")
    chosen, calls, parallel = request.tools, Calls.MAYBE, request.parallel_tool_calls
    match request.tool_choice:
        case NamedToolChoice(name=name):
            chosen = tuple(tool for tool in chosen if tool.name == name)
            if not chosen:
                raise PromptRejected(f"tool_choice names {name!r}, which is none of the tools.")
            calls, parallel = Calls.ALWAYS, False
        case ToolChoiceMode.REQUIRED:
            if not chosen:
                raise PromptRejected("tool_choice is required, but there are no tools.")
            calls = Calls.ALWAYS
        case ToolChoiceMode.NONE:
            chosen = ()
        case ToolChoiceMode.AUTO:
            pass
    tools = tuple(
        CallableTool(
            name=tool.name,
            arguments=compile_arguments(tool, subject=f"tools[{index}]", room_tokens=room_tokens),
        )
        for index, tool in enumerate(request.tools)
        if tool in chosen
    )
    return TurnForm(
        calls=calls if tools else Calls.NEVER,
        tools=tools,
        tool_names=names,
        parallel=parallel,
        document=document,
    )


@lru_cache(maxsize=_GRAMMARS_CACHED)
def _checked(grammar: str) -> str:
    # llama.cpp drops a grammar without a word that does not compile, or that no matcher can be made of.
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0)
    if matcher.is_error():
        reason = _first_line(matcher.get_error())
        raise PromptRejected(f"The tools and the response format make no grammar together: {reason}")
    return grammar


def _text_that_is_no_call(tool_names: tuple[str, ...]) -> str:
    """A regular expression for text that nobody takes for a call that was not recognised."""
    names = "|".join(re.escape(name) for name in tool_names)
    at_the_start = rf"\s*(```|\{{|\[\s*\{{|\[?\s*({names})\s*\()(?s:.*)"
    anywhere = rf'(?s:.*)({_TAG}|{FENCE}{LOOSE_HEAD}|\{{\s*"name"\s*:\s*"({names})")(?s:.*)'
    return f"/(?s:.+)/ & ~/{_slashed(at_the_start)}/ & ~/{_slashed(anywhere)}/"


def _slashed(pattern: str) -> str:
    return pattern.replace("/", r"\/")


def _first_line(error: str) -> str:
    return error.strip().splitlines()[0]
