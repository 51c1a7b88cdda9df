"""The form of a database: which migrations it has had, and the way to the newest."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

_MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(engine: Engine) -> None:
    """Brings a database to the newest form, in one transaction.

    Raises:
        alembic.util.CommandError: it is of a form that this version does not know.
        sqlalchemy.exc.DBAPIError: it cannot be read or written.
    """
    config = _config()
    config.attributes["engine"] = engine
    command.upgrade(config, "head")


def newest_revision() -> str:
    """The form that this version works with."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def is_older(revision: str) -> bool:
    """Whether a form is one that this version knows, and not the newest."""
    script = ScriptDirectory.from_config(_config())
    return revision in {known.revision for known in script.walk_revisions()} - {newest_revision()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config
