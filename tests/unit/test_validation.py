"""Every rule names its field, says itself, and shows the value."""

from collections.abc import Callable

import pytest

from assistants.domain.content import (
    ContentPart,
    FilePart,
    ImageFilePart,
    ImageUrlPart,
    InputAudioPart,
    ReasoningPart,
    Role,
    TextPart,
)
from assistants.domain.errors import FeatureUnavailable, InvalidArgument
from assistants.domain.validation import Violations, check_request_id
from runtime.types import Sampling


def broken(check: Callable[[Violations], None]) -> dict[str, str]:
    violations = Violations()
    check(violations)
    try:
        violations.check()
    except InvalidArgument as error:
        return {violation.field: violation.description for violation in error.violations}
    return {}


def test_metadata_at_its_limits_is_accepted() -> None:
    metadata = {f"{index:064}": "v" * 512 for index in range(16)}
    assert broken(lambda v: v.metadata(metadata)) == {}


def test_metadata_beyond_its_limits_is_refused() -> None:
    assert (
        "at most 16 pairs, got 17"
        in broken(lambda v: v.metadata({str(i): "" for i in range(17)}))["metadata"]
    )
    assert "1 to 64 characters" in broken(lambda v: v.metadata({"k" * 65: ""}))["metadata"]
    assert "1 to 64 characters" in broken(lambda v: v.metadata({"": ""}))["metadata"]
    assert (
        "at most 512 characters, got 513" in broken(lambda v: v.metadata({"k": "v" * 513}))["metadata['k']"]
    )


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(temperature=2.1), "generation_params.temperature"),
        (Sampling(temperature=float("nan")), "generation_params.temperature"),
        (Sampling(top_p=0.0), "generation_params.top_p"),
        (Sampling(top_p=float("nan")), "generation_params.top_p"),
        (Sampling(seed=-1), "generation_params.seed"),
        (Sampling(seed=2**32), "generation_params.seed"),
        (Sampling(presence_penalty=2.1), "generation_params.presence_penalty"),
        (Sampling(frequency_penalty=-2.1), "generation_params.frequency_penalty"),
        (Sampling(frequency_penalty=float("nan")), "generation_params.frequency_penalty"),
    ],
)
def test_sampling_out_of_range_is_refused(sampling: Sampling, field: str) -> None:
    assert list(broken(lambda v: v.sampling(sampling))) == [field]


def test_sampling_at_its_limits_is_accepted() -> None:
    assert broken(lambda v: v.sampling(Sampling(temperature=0, top_p=1, seed=2**32 - 2))) == {}
    assert broken(lambda v: v.sampling(Sampling(presence_penalty=-2, frequency_penalty=2))) == {}


@pytest.mark.parametrize(
    ("content", "field", "rule"),
    [
        ((), "content", "1 to 64 items, got 0"),
        ((TextPart(value=""),), "content[0].text.value", "at least 1 characters"),
        ((TextPart(value="a"), TextPart(value="b" * 256_001)), "content[1].text.value", "got 256001"),
        ((ImageFilePart(file_id="f"),), "content[0].image_file", "the model is text only"),
        ((ImageUrlPart(url="http://x"),), "content[0].image_url", "the model is text only"),
        ((InputAudioPart(format="wav"),), "content[0].input_audio", "the model is text only"),
        ((ReasoningPart(text="hm"),), "content[0].reasoning", "written by the server only"),
    ],
)
def test_content_is_checked_part_by_part(content: tuple[ContentPart, ...], field: str, rule: str) -> None:
    assert rule in broken(lambda v: v.content(Role.USER, content))[field]


def test_a_file_is_refused_as_not_available_yet() -> None:
    with pytest.raises(FeatureUnavailable, match=r"content\[0\]\.file"):
        broken(lambda v: v.content(Role.USER, (FilePart(file_id="f"),)))


def test_all_breaches_are_told_at_once() -> None:
    def check(violations: Violations) -> None:
        violations.length("a", "xx", most=1)
        violations.between("b", 5, 0, 1)

    assert set(broken(check)) == {"a", "b"}


def test_request_ids_are_uuids() -> None:
    check_request_id("123e4567-e89b-12d3-a456-426614174000")
    with pytest.raises(InvalidArgument, match="must be a UUID, got 'x'"):
        check_request_id("x")
