"""Assistants in the database."""

from functools import partial

import sqlalchemy as sa

from assistants.domain.assistant import Assistant
from assistants.domain.page import Page, PageRequest
from assistants.domain.ports import RequestKey
from assistants.domain.times import from_micros, to_micros
from assistants.storage.codec import ASSISTANT_SETTINGS
from assistants.storage.connection import Connection, Record
from assistants.storage.database import Database
from assistants.storage.paging import PagedSelect
from assistants.storage.requests import made_before
from assistants.storage.tables import ASSISTANTS

_c = ASSISTANTS.c
_OF_PROJECT = _c.project_id == sa.bindparam("project_id")
_BY_ID = sa.select(ASSISTANTS).where(_OF_PROJECT, _c.id == sa.bindparam("id"))
_LIST = PagedSelect(ASSISTANTS, _OF_PROJECT)
_INSERT = sa.insert(ASSISTANTS)
_REPLACE = (
    sa.update(ASSISTANTS)
    .where(
        _c.project_id == sa.bindparam("p_project_id"),
        _c.id == sa.bindparam("p_id"),
        _c.revision == sa.bindparam("p_revision"),
    )
    .values(
        settings_json=sa.bindparam("settings_json"),
        revision=sa.bindparam("revision"),
        update_time=sa.bindparam("update_time"),
    )
)
_DELETE = sa.delete(ASSISTANTS).where(_OF_PROJECT, _c.id == sa.bindparam("id"))
_DELETE_REVISION = _DELETE.where(_c.revision == sa.bindparam("revision"))


class SqlAssistants:
    """AssistantRepository."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, assistant: Assistant, request: RequestKey | None) -> Assistant:
        """Stores it, or gives the one that the request id made."""

        def job(connection: Connection) -> Assistant:
            read = partial(_get, connection, assistant.project_id)
            if existing := made_before(connection, assistant.project_id, request, assistant.id, read):
                return existing
            connection.execute(
                _INSERT,
                {
                    "id": assistant.id,
                    "project_id": assistant.project_id,
                    "settings_json": ASSISTANT_SETTINGS.dump(assistant.settings),
                    "revision": assistant.revision,
                    "create_time": to_micros(assistant.create_time),
                    "update_time": to_micros(assistant.update_time),
                },
            )
            return assistant

        return await self._database.write(job)

    async def get(self, project_id: str, assistant_id: str) -> Assistant | None:
        """None when there is none."""
        return await self._database.read(lambda connection: _get(connection, project_id, assistant_id))

    async def list(self, project_id: str, page: PageRequest) -> Page[Assistant]:
        """One page."""
        return await self._database.scan(
            lambda connection: _LIST.page(connection, page, {"project_id": project_id}, _decode)
        )

    async def replace(self, assistant: Assistant, *, revision: int) -> bool:
        """Stores the new value if the stored revision is still `revision`."""
        parameters = {
            "p_project_id": assistant.project_id,
            "p_id": assistant.id,
            "p_revision": revision,
            "settings_json": ASSISTANT_SETTINGS.dump(assistant.settings),
            "revision": assistant.revision,
            "update_time": to_micros(assistant.update_time),
        }
        return await self._database.write(
            lambda connection: connection.execute(_REPLACE, parameters).rowcount == 1
        )

    async def delete(self, project_id: str, assistant_id: str, *, revision: int | None) -> bool:
        """Deletes it if it has that revision, when one is given."""
        statement = _DELETE if revision is None else _DELETE_REVISION
        parameters = {"project_id": project_id, "id": assistant_id, "revision": revision}
        if revision is None:
            del parameters["revision"]
        return await self._database.write(
            lambda connection: connection.execute(statement, parameters).rowcount == 1
        )


def _get(connection: Connection, project_id: str, assistant_id: str) -> Assistant | None:
    row = connection.execute(_BY_ID, {"project_id": project_id, "id": assistant_id}).first()
    return None if row is None else _decode(row)


def _decode(row: Record) -> Assistant:
    return Assistant(
        id=row.id,
        project_id=row.project_id,
        settings=ASSISTANT_SETTINGS.load(row.settings_json),
        revision=row.revision,
        create_time=from_micros(row.create_time),
        update_time=from_micros(row.update_time),
    )
