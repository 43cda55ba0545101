"""In-memory stage at the end of an authorization flow: gives the client its code (flows.md §2.5, §8.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.errors import ValidationFailed
from core.oauth2 import providers, tokens
from core.oauth2.protocol import Authorization, with_parameters
from core.stages.base import Advance, Challenge, Invalid, Outcome, Stage

FULFILMENT = "goauthentik.io/providers/oauth2/fulfilment"
PARAMS = "goauthentik.io/providers/oauth2/params"  # context key: the checked request
NOT_ALLOWED = "Request has been denied."
EXPIRED = "The request is no longer valid."


class OAuth2FulfilmentStage(Stage):
    """Checks once more who is logged in and whether that user may, and makes the code."""

    model = FULFILMENT
    verbose_name = "OAuth2 Authorization"

    async def handle(self, method: str, data: Mapping[str, Any] | None) -> Outcome:
        """The flow's last stage: to the client, with a code. Refusals stay here."""
        run, services = self.run, self.run.services
        authorization = Authorization.of(run.plan.context.get(PARAMS))
        login = tokens.login_of(run.session)
        if authorization is None or login is None:
            return Invalid(EXPIRED)
        client = providers.by_client_id(services.database, authorization.client_id)
        if client is None or not client.allows(authorization.redirect_uri):
            return Invalid(EXPIRED)
        result = await services.access.application(
            client.application, login.user, http_request=run.request, context=policy_context(authorization)
        )
        if result.passing is not True:
            return Invalid("\n".join(result.messages) or NOT_ALLOWED)
        try:
            parameters = {"code": tokens.new_code(services, client, authorization, login)}
        except ValidationFailed:
            return Invalid(EXPIRED)
        if authorization.state is not None:
            parameters["state"] = authorization.state
        services.event("authorize_application", run.request, authorized_application={"pk": client.application.pk,
                       "name": client.application.name}, scopes=" ".join(authorization.scopes))  # fmt: skip
        if authorization.response_mode == "form_post":
            attrs = {"url": authorization.redirect_uri, "attrs": parameters, "title": client.application.name}
            return Challenge("ak-stage-autosubmit", attrs)
        run.plan.context["redirect"] = with_parameters(
            authorization.redirect_uri, parameters, fragment=authorization.response_mode == "fragment"
        )
        return Advance()


def policy_context(authorization: Authorization) -> dict[str, Any]:
    """What policies of the application see of a request (flows.md §1.5)."""
    return {
        "oauth_scopes": list(authorization.scopes),
        "oauth_grant_type": "authorization_code",
        "oauth_code_challenge": authorization.code_challenge,
        "oauth_code_challenge_method": authorization.code_challenge_method,
        "oauth_max_age": None,
        "oauth_redirect_uri": authorization.redirect_uri,
        "oauth_response_type": "code",
    }
