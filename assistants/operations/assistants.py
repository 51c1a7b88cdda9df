"""Assistants: create, get, list, update, delete."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from assistants.domain.assistant import Assistant, AssistantSettings
from assistants.domain.errors import NotFound
from assistants.domain.ids import new_id
from assistants.domain.names import assistant_name
from assistants.domain.page import Page, PageRequest
from assistants.domain.ports import AssistantRepository, RequestKey
from assistants.domain.principal import Principal
from assistants.domain.validation import MAX_INSTRUCTIONS, Violations
from assistants.operations.editing import check_etag, edit
from assistants.operations.models import ModelOperations
from assistants.operations.response_formats import check_response_format
from assistants.operations.tools import check_tools
from runtime.types import ToolChoiceMode


class AssistantOperations:
    """Acts on the assistants of the caller's project."""

    def __init__(self, repository: AssistantRepository, models: ModelOperations) -> None:
        self._repository = repository
        self._models = models

    async def create(
        self,
        principal: Principal,
        settings: AssistantSettings,
        *,
        request: RequestKey | None = None,
        validate_only: bool = False,
    ) -> Assistant:
        """Creates an assistant, or only checks it. Raises InvalidArgument."""
        await self._check(settings)
        now = datetime.now(UTC)
        assistant = Assistant(
            id=new_id("asst"),
            project_id=principal.project_id,
            settings=settings,
            revision=1,
            create_time=now,
            update_time=now,
        )
        if validate_only:
            return assistant
        return await self._repository.create(assistant, request)

    async def get(self, principal: Principal, assistant_id: str) -> Assistant:
        """Raises NotFound."""
        assistant = await self._repository.get(principal.project_id, assistant_id)
        if assistant is None:
            raise NotFound("assistant", assistant_name(assistant_id))
        return assistant

    async def list(self, principal: Principal, page: PageRequest) -> Page[Assistant]:
        """One page."""
        return await self._repository.list(principal.project_id, page)

    async def update(
        self,
        principal: Principal,
        assistant_id: str,
        change: Callable[[AssistantSettings], AssistantSettings],
        *,
        etag: str = "",
    ) -> Assistant:
        """Changes the settings. Raises NotFound, InvalidArgument, EtagMismatch."""

        async def apply(assistant: Assistant) -> Assistant:
            settings = change(assistant.settings)
            await self._check(settings)
            return replace(
                assistant,
                settings=settings,
                revision=assistant.revision + 1,
                update_time=datetime.now(UTC),
            )

        return await edit(
            assistant_name(assistant_id),
            etag,
            read=lambda: self.get(principal, assistant_id),
            change=apply,
            write=lambda changed, revision: self._repository.replace(changed, revision=revision),
        )

    async def delete(self, principal: Principal, assistant_id: str, *, etag: str = "") -> None:
        """Deletes it; its runs stay. Raises NotFound, EtagMismatch."""
        while True:
            assistant = await self.get(principal, assistant_id)
            check_etag(assistant_name(assistant_id), assistant, etag)
            revision = assistant.revision if etag else None
            if await self._repository.delete(principal.project_id, assistant_id, revision=revision):
                return

    async def _check(self, settings: AssistantSettings) -> None:
        violations = Violations()
        violations.length("display_name", settings.display_name, most=256)
        violations.length("description", settings.description, most=512)
        violations.length("instructions", settings.instructions, most=MAX_INSTRUCTIONS)
        violations.sampling(settings.sampling)
        violations.metadata(settings.metadata)
        violations.check()
        self._models.check_settings(settings.model, settings.sampling)
        await check_tools(settings.tools, ToolChoiceMode.AUTO)
        await check_response_format(settings.response_format)
