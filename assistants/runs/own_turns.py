"""The turns that a run has made, as its next prompt repeats them."""

from collections.abc import Iterable, Sequence

from assistants.domain.message import Message
from assistants.domain.run_step import MessageCreation, RunStep, StepState, ToolCalls
from runtime.types import ChatMessage, ChatRole, ToolCall


def turns_made(steps: Iterable[RunStep]) -> int:
    """Turns that are whole, their tool calls carried out."""
    return sum(step.state is StepState.COMPLETED and isinstance(step.details, ToolCalls) for step in steps)


def own_turns(steps: Iterable[RunStep], messages: Iterable[Message]) -> Sequence[ChatMessage]:
    """What the model said, thought and called in this run, and what the tools returned.

    Byte for byte what the engine has in its cache of this run.

    Args:
        steps: all of the run, in order. Only completed ones count: a turn that was lost is repeated.
        messages: that the run wrote.
    """
    texts = {message.id: message.text for message in messages}
    prompt: list[ChatMessage] = []
    said = ""
    for step in steps:
        if step.state is not StepState.COMPLETED:
            continue
        match step.details:
            case MessageCreation(message_id=message_id):
                said = texts[message_id]
            case ToolCalls(calls=calls, reasoning=reasoning):
                prompt.append(
                    ChatMessage(
                        role=ChatRole.ASSISTANT,
                        content=said,
                        tool_calls=tuple(
                            ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
                            for call in calls
                        ),
                        reasoning=reasoning,
                    )
                )
                prompt += (
                    ChatMessage(role=ChatRole.TOOL, content=call.output or "", tool_call_id=call.id)
                    for call in calls
                )
                said = ""
    return prompt
