"""What all tests share."""

from pathlib import Path

import pytest

from runtime.models.catalog import DEFAULT_MODEL
from runtime.models.pull import pull
from runtime.models.store import ModelStore


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real default model, pulled once a machine."""
    return pull(ModelStore(), DEFAULT_MODEL).path
