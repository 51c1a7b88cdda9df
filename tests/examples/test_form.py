"""The examples stay what a new user can read at one go."""

from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_each_is_short_and_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for script in EXAMPLES.glob("*.py"):
        assert len(script.read_text(encoding="utf-8").splitlines()) < 80
        assert f"`{script.name}`" in listed
