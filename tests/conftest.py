"""What all tests share."""

from pathlib import Path

import pytest

from runtime.models.catalog import DEFAULT_MODEL
from runtime.models.pull import pull
from runtime.models.store import ModelStore
from tests.cluster_parts import migrated, migrated_url, nats_broker, nats_url, postgres, postgres_url

__all__ = [
    "migrated",
    "migrated_url",
    "model_path",
    "nats_broker",
    "nats_url",
    "postgres",
    "postgres_url",
]


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real default model, pulled once a machine."""
    return pull(ModelStore(), DEFAULT_MODEL).path
