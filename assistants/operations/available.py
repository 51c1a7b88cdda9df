"""What this version refuses rather than ignores."""

from collections.abc import Sequence

from assistants.domain.errors import FeatureUnavailable
from assistants.domain.run import ConcurrencyPolicy, RunSettings
from assistants.domain.tool import Tool
from runtime.types import ResponseFormat, TextFormat, ToolChoiceMode


def check_tools(tools: Sequence[Tool]) -> None:
    """Raises FeatureUnavailable when there is a tool."""
    if tools:
        raise FeatureUnavailable("tools[0]", "calling tools")


def check_response_format(response_format: ResponseFormat) -> None:
    """Raises FeatureUnavailable for anything but text."""
    if not isinstance(response_format, TextFormat):
        raise FeatureUnavailable("response_format", f"the response format {response_format.type!r}")


def check_run(settings: RunSettings) -> None:
    """Raises FeatureUnavailable for what a run cannot do yet."""
    check_tools(settings.tools)
    check_response_format(settings.response_format)
    if settings.tool_choice is not ToolChoiceMode.AUTO and settings.tool_choice is not ToolChoiceMode.NONE:
        raise FeatureUnavailable("tool_choice", "calling tools")
    if settings.consensus > 1:
        raise FeatureUnavailable("consensus", "consensus over several samples")
    if settings.concurrency is not ConcurrencyPolicy.REJECT:
        raise FeatureUnavailable("concurrency_policy", f"the policy {settings.concurrency.value!r}")
    if settings.include_reasoning:
        raise FeatureUnavailable("include_reasoning", "streaming the reasoning")
