"""Who may use which application, and who may see or do what with which object (flows.md §7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core import models
from core.database import Database, record_key
from core.policies.base import PolicyResult
from core.policies.engine import PolicyEngine

SEARCH_FULL_DIRECTORY = "authentik_providers_ldap.search_full_directory"

PASS_CERTIFICATE = "authentik_stages_mtls.pass_outpost_certificate"  # noqa: S105 - the name of a permission
VIEW_USER = "authentik_core.view_user"
VIEW_GROUP = "authentik_core.view_group"
VIEW_OUTPOST = "authentik_outposts.view_outpost"
ADD_EVENT = "authentik_events.add_event"
VIEW_KEY_PAIR = "authentik_crypto.view_certificatekeypair"
VIEW_CERTIFICATE = "authentik_crypto.view_certificatekeypair_certificate"
VIEW_PRIVATE_KEY = "authentik_crypto.view_certificatekeypair_key"


def view_provider(type_: str) -> str:
    """The permission to view a provider of this model name."""
    app_label, _, name = type_.partition(".")
    return f"{app_label}.view_{name}"


class Access:
    """Answers questions about rights. Nothing here is cached: a change counts at once."""

    def __init__(self, database: Database, engine: PolicyEngine) -> None:
        self._database = database
        self._engine = engine

    async def application(
        self,
        application: models.Application,
        user: models.User,
        *,
        http_request: Any = None,
        context: Mapping[str, Any] | None = None,
        default: bool = True,
    ) -> PolicyResult:
        """Whether the user may use the application. An inactive or anonymous user never may; ``default`` is the answer
        for an application without bindings."""
        if not user.stored or not user.is_active:
            return PolicyResult(False)
        return await self._engine.evaluate(
            application, user, http_request=http_request, context=context, empty_result=default
        )

    def may(self, user: models.User, permission: str, record: models.Model | None = None) -> bool:
        """Whether the user holds ``permission`` globally or on ``record``; superusers hold all. Inactive: never."""
        if not user.stored or not user.is_active:
            return False
        if user.is_superuser:
            return True
        return self._database.has_permission(user.pk, permission, record_key(record) if record is not None else None)

    def visible_pks(self, user: models.User, permission: str, model_name: str) -> set[str] | None:
        """Primary keys (as text) of the objects that a list shows; ``None`` = all."""
        if not user.stored or not user.is_active:
            return set()
        if user.is_superuser:
            return None
        return self._database.permitted_pks(int(user.pk or 0), permission, model_name)

    def search_full_directory(self, user: models.User, provider: models.Provider) -> bool:
        """Whether LDAP shows the user the whole directory: by a role of the user or of a group, ancestors included."""
        return self.may(user, SEARCH_FULL_DIRECTORY, provider)

    @staticmethod
    def empty_list_allowed(user: models.User) -> bool:
        """Whether "nothing is permitted" is an empty list (outpost accounts) and not a refusal (everybody else)."""
        return user.type == models.INTERNAL_SERVICE_ACCOUNT
