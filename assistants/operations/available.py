"""What this version refuses rather than ignores."""

from assistants.domain.errors import FeatureUnavailable
from assistants.domain.run import ConcurrencyPolicy, RunSettings


def check_run(settings: RunSettings) -> None:
    """Raises FeatureUnavailable for what a run cannot do yet."""
    if settings.concurrency is not ConcurrencyPolicy.REJECT:
        raise FeatureUnavailable("concurrency_policy", f"the policy {settings.concurrency.value!r}")
