"""From the chunks of a Chat Completions stream to the events of a turn, validated.

Servers promise less than an engine does: they call tools that do not exist, with arguments that miss their
schema, answer where a call was required, and write documents that are none. So whatever can still miss is
held back until it is whole, and is not given when it does.
"""

import json
import re
from collections.abc import Iterator
from typing import NoReturn

from runtime.engines.openai_calls import CallAssembler
from runtime.engines.openai_chunk import Choice, Chunk, UsagePart
from runtime.engines.openai_request import offers_tools
from runtime.engines.thought_tags import ThoughtSplitter
from runtime.errors import EngineFault, EngineUnavailable, OutputInvalid
from runtime.events import (
    EngineEvent,
    LogprobsDelta,
    PromptProgress,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    TurnEnd,
)
from runtime.output.compile import JSON_OBJECT, CompiledSchema, compile_arguments, compile_schema
from runtime.output.validate import violations
from runtime.types import (
    FinishReason,
    GenerateRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedToolChoice,
    TextFormat,
    Timings,
    TokenLogprob,
    ToolCall,
    ToolChoiceMode,
    Usage,
)

# "eos_token" and "stop_sequence" are text-generation-inference's.
_FINISHED = {"stop", "eos_token", "stop_sequence", "tool_calls", "function_call", "length"}
_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*)\n[ \t]*```\s*", re.DOTALL)


class AnswerRules:
    """What an answer has to satisfy; compiled before anything is asked."""

    def __init__(self, request: GenerateRequest) -> None:
        """Compiles the schemas of a request.

        Raises:
            SchemaRejected: one cannot be used.
        """
        self.arguments: dict[str, CompiledSchema] = {}
        if offers_tools(request):
            for index, tool in enumerate(request.tools):
                self.arguments[tool.name] = compile_arguments(tool, subject=f"tools[{index}]")
        self.choice = request.tool_choice
        self.must_call = offers_tools(request) and request.tool_choice is not ToolChoiceMode.AUTO
        self.parallel = request.parallel_tool_calls
        self.document: CompiledSchema | None = None
        match request.response_format:
            case TextFormat():
                pass
            case JsonObjectFormat():
                self.document = JSON_OBJECT
            case JsonSchemaFormat(schema_json=schema_json, strict=strict):
                self.document = compile_schema(schema_json, strict=strict, subject="response_format")
        self.top_logprobs = request.top_logprobs

    def misses_of_call(self, name: str, arguments_json: str) -> tuple[str, ...]:
        """What a call misses; empty when it may be given."""
        compiled = self.arguments.get(name)
        if compiled is None:
            known = ", ".join(self.arguments) or "none"
            return (f"there is no tool {name!r}; there are: {known}",)
        if isinstance(self.choice, NamedToolChoice) and name != self.choice.name:
            return (f"the tool {self.choice.name!r} has to be called, not {name!r}",)
        return violations(compiled, arguments_json)


class AnswerReader:
    """Reads one stream: `feed` each chunk, then `finish`."""

    def __init__(self, rules: AnswerRules) -> None:
        self.thought = ""
        """What the model thought."""
        self.spoken = ""
        """What else it wrote: text and calls."""
        self._rules = rules
        self._splitter = ThoughtSplitter()
        self._calls = CallAssembler()
        self._finish_reason: str | None = None
        self._usage: UsagePart | None = None
        # Nothing is given while it may turn out to be asked for again: a document or a demanded
        # call to the end, else the thought before a call, of which text says that none came first.
        self._holds_to_the_end = rules.document is not None or rules.must_call
        self._holding = self._holds_to_the_end or bool(rules.arguments)
        self._held_thought: list[str] = []
        self._held_text: list[str] = []
        self._held_tokens: list[TokenLogprob] = []
        self._text_given = False

    def feed(self, chunk: Chunk) -> Iterator[EngineEvent]:
        """Takes a chunk; gives what is certain by now."""
        if (progress := chunk.prompt_progress) is not None:
            yield PromptProgress(progress.processed, progress.total)
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            if choice.index != 0:
                continue
            if thought := choice.delta.thought:
                yield from self._think(thought)
            spoken_before = len(self.spoken)
            for thinking, text in self._splitter.feed(choice.delta.content or ""):
                yield from self._think(text) if thinking else self._speak(text)
            yield from self._logprobs(choice, spoke=len(self.spoken) > spoken_before)
            for part in choice.delta.tool_calls or ():
                self.spoken += self._calls.add(part)
            self._finish_reason = choice.finish_reason or self._finish_reason

    def end(self) -> UsagePart:
        """Returns what the server counted, once the stream is over.

        Raises:
            EngineUnavailable: it broke off.
            EngineFault: it ended without usage, or for a reason that nobody knows.
        """
        if self._finish_reason is None:
            raise EngineUnavailable("The server broke off its answer.")
        if self._finish_reason == "abort":
            raise EngineUnavailable("The server gave the answer up.")
        if self._finish_reason not in _FINISHED:
            raise EngineFault(f"The server ended its answer for the reason {self._finish_reason!r}.")
        if self._usage is None:
            raise EngineFault("The server told no usage: it has to know stream_options.include_usage.")
        return self._usage

    def finish(self, usage: Usage, timings: Timings) -> Iterator[EngineEvent]:
        """Gives what was held back, and the end.

        Raises:
            OutputInvalid: the answer misses what was asked for, and nothing of it was given.
            EngineFault: it does, after text was given.
        """
        for thinking, text in self._splitter.finish():
            yield from self._think(text) if thinking else self._speak(text)
        if self._finish_reason == "length":
            # A call that was cut is none, and whether the last one was cut nobody knows.
            yield from self._release("".join(self._held_text))
            yield TurnEnd(FinishReason.LENGTH, usage, timings)
            return
        if self._calls.any:
            calls = self._checked_calls(usage)
            # Text beside calls is no document.
            yield from self._release("" if self._rules.document else "".join(self._held_text))
            for call in calls:
                yield ToolCallStart(call.id, call.name)
                yield ToolCallDelta(call.arguments_json)
                yield ToolCallEnd()
            yield TurnEnd(FinishReason.TOOL_CALLS, usage, timings)
            return
        yield from self._release(self._checked_text(usage))
        yield TurnEnd(FinishReason.STOP, usage, timings)

    def _think(self, text: str) -> Iterator[EngineEvent]:
        self.thought += text
        if self._holding:
            self._held_thought.append(text)
        else:
            yield ReasoningDelta(text)

    def _speak(self, text: str) -> Iterator[EngineEvent]:
        if self.thought and not self.spoken:
            # Templates put empty lines between thought and answer.
            text = text.lstrip("\n")
        if not text:
            return
        self.spoken += text
        if self._holds_to_the_end or (self._holding and not text.strip()):
            self._held_text.append(text)
        elif self._holding:
            yield from self._release("".join((*self._held_text, text)))
        else:
            self._text_given = True
            yield TextDelta(text)

    def _logprobs(self, choice: Choice, *, spoke: bool) -> Iterator[EngineEvent]:
        if self._rules.top_logprobs is None:
            return
        if not spoke and not self._splitter.undecided:
            # Some servers tell them for the thought and for calls as well, which are not the answer.
            if not self.spoken:
                self._held_tokens.clear()
            return
        self._held_tokens += choice.tokens(self._rules.top_logprobs)
        if self._text_given and self._held_tokens:
            yield LogprobsDelta(tuple(self._held_tokens))
            self._held_tokens.clear()

    def _release(self, text: str) -> Iterator[EngineEvent]:
        """Gives what was held back, with `text` for the text, and holds nothing more back."""
        if self._held_thought:
            yield ReasoningDelta("".join(self._held_thought))
        if text:
            self._text_given = True
            yield TextDelta(text)
            if self._held_tokens:
                yield LogprobsDelta(tuple(self._held_tokens))
        self._held_thought, self._held_text, self._held_tokens = [], [], []
        self._holding = False

    def _checked_calls(self, usage: Usage) -> tuple[ToolCall, ...]:
        calls = self._calls.whole()
        if not self._rules.parallel:
            # A server that knows no parallel_tool_calls may make several: the first is what was asked for.
            calls = calls[:1]
        misses = tuple(
            f"call of {call.name!r}: {miss}"
            for call in calls
            for miss in self._rules.misses_of_call(call.name, call.arguments_json)
        )
        if misses:
            written = (f'{{"name": {json.dumps(c.name)}, "arguments": {c.arguments_json}}}' for c in calls)
            self._miss("\n".join(written), misses, usage)
        return calls

    def _checked_text(self, usage: Usage) -> str:
        text = "".join(self._held_text)
        if self._finish_reason == "tool_calls":
            self._miss(text, ("it was to be a call of a tool, but holds none",), usage)
        if self._rules.must_call:
            named = isinstance(self._rules.choice, NamedToolChoice)
            which = f"the tool {self._rules.choice.name!r}" if named else "a tool"
            self._miss(text, (f"{which} has to be called",), usage)
        if self._rules.document is None:
            return text
        fenced = _FENCED.fullmatch(text)
        document = fenced[1] if fenced else text.strip()
        if misses := violations(self._rules.document, document):
            self._miss(document, misses, usage)
        return document

    def _miss(self, document: str, misses: tuple[str, ...], usage: Usage) -> NoReturn:
        if self._text_given:
            raise EngineFault(f"The server called a tool wrongly after it had spoken: {'; '.join(misses)}")
        raise OutputInvalid(document=document, violations=misses, usage=usage)
