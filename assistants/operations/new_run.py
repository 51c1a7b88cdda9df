"""What a client chooses about a run, and what the assistant adds to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from assistants.domain.assistant import Assistant
from assistants.domain.errors import FeatureUnavailable, InvalidArgument
from assistants.domain.message import NewMessage
from assistants.domain.run import (
    DEFAULT_MAX_TURNS,
    DEFAULT_TTL_S,
    AutoTruncation,
    ConcurrencyPolicy,
    LastMessages,
    RunSettings,
    Truncation,
)
from assistants.domain.tool import Tool
from assistants.domain.validation import MAX_INSTRUCTIONS, Violations
from assistants.operations.messages import check_message
from assistants.operations.models import ModelOperations
from runtime.types import Effort, ResponseFormat, Sampling, ToolChoice, ToolChoiceMode

MAX_TTL_S = 30 * 24 * 3600
MAX_ADDITIONAL_MESSAGES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """What a client chooses about a run; None is the assistant's choice."""

    assistant_id: str
    model: str | None = None
    instructions: str | None = None
    additional_instructions: str = ""
    additional_messages: tuple[NewMessage, ...] = ()
    tools: tuple[Tool, ...] | None = None
    tool_choice: ToolChoice = ToolChoiceMode.AUTO
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    effort: Effort | None = None
    sampling: Sampling = field(default_factory=Sampling)
    consensus: int = 1
    concurrency: ConcurrencyPolicy = ConcurrencyPolicy.REJECT
    max_turns: int = DEFAULT_MAX_TURNS
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    truncation: Truncation = field(default_factory=AutoTruncation)
    include_reasoning: bool = False
    ttl_s: float = DEFAULT_TTL_S
    metadata: Mapping[str, str] = field(default_factory=dict)


def run_settings(assistant: Assistant, new: NewRun, models: ModelOperations) -> RunSettings:
    """The assistant's settings; what the request sets wins.

    Raises InvalidArgument when the model is not served, or refuses the sampling parameters.
    """
    base = assistant.settings
    model = base.model if new.model is None else new.model
    instructions = base.instructions if new.instructions is None else new.instructions
    sampling = _merged(new.sampling, base.sampling)
    models.check_settings(model, sampling)
    return RunSettings(
        model=model,
        agent_name=base.display_name,
        instructions="\n\n".join(filter(None, (instructions, new.additional_instructions))),
        tools=base.tools if new.tools is None else new.tools,
        tool_choice=new.tool_choice,
        parallel_tool_calls=new.parallel_tool_calls,
        response_format=base.response_format if new.response_format is None else new.response_format,
        effort=new.effort or base.effort or models.effort_of(model),
        sampling=sampling,
        consensus=new.consensus,
        concurrency=new.concurrency,
        max_turns=new.max_turns,
        max_input_tokens=new.max_input_tokens,
        max_output_tokens=new.max_output_tokens,
        truncation=new.truncation,
        include_reasoning=new.include_reasoning,
        ttl_s=new.ttl_s,
    )


def _merged(chosen: Sampling, base: Sampling) -> Sampling:
    return Sampling(
        temperature=base.temperature if chosen.temperature is None else chosen.temperature,
        top_p=base.top_p if chosen.top_p is None else chosen.top_p,
        seed=base.seed if chosen.seed is None else chosen.seed,
        presence_penalty=(
            base.presence_penalty if chosen.presence_penalty is None else chosen.presence_penalty
        ),
        frequency_penalty=(
            base.frequency_penalty if chosen.frequency_penalty is None else chosen.frequency_penalty
        ),
    )


def check_new_run(new: NewRun) -> None:
    """Checks all but what depends on the assistant. Raises InvalidArgument, FeatureUnavailable."""
    violations = Violations()
    violations.length("instructions", new.instructions or "", most=MAX_INSTRUCTIONS)
    violations.length("additional_instructions", new.additional_instructions, most=MAX_INSTRUCTIONS)
    violations.count("additional_messages", new.additional_messages, most=MAX_ADDITIONAL_MESSAGES)
    violations.sampling(new.sampling)
    violations.between("consensus", new.consensus, 1, 64)
    violations.between("max_turns", new.max_turns, 1, 1000)
    violations.between("max_input_tokens", new.max_input_tokens, 1, 2**53)
    violations.between("max_output_tokens", new.max_output_tokens, 1, 2**53)
    violations.between("ttl", new.ttl_s, 1, MAX_TTL_S)
    if isinstance(new.truncation, LastMessages):
        violations.between("truncation_strategy.last_messages", new.truncation.count, 1, 2**31 - 1)
    violations.metadata(new.metadata)
    violations.check()
    for index, message in enumerate(new.additional_messages):
        try:
            check_message(message)
        except (InvalidArgument, FeatureUnavailable) as error:
            raise error.within(f"additional_messages[{index}]") from error
