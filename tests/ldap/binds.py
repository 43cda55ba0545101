"""What the tests of binds share: provider records, a login part in the test's hand, a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from common.outcomes import CoreSession, Credentials, Denied, LoginTarget, Outcome, Passed
from common.records import LDAPProvider
from common.setting_rows import EXTRAS_BY_NAME
from outposts.ldap.auth import Authenticator, Identity, Peer
from outposts.ldap.bind_cache import KEY_SIZE, BindCache
from outposts.ldap.directory import Snapshot
from outposts.ldap.messages import Authentication, BindRequest, Control, Simple
from outposts.ldap.providers import Provider, Providers, ProviderSettings, resolve

B = "DC=ldap,DC=goauthentik,DC=io"
b = B.lower()
ALICE = f"cn=alice,ou=users,{b}"
PEER = Peer("10.1.2.3")
NOW = 1_700_000_000.0


def settings(pk: int = 1, base_dn: str = B, extra: dict[str, Any] | None = None, **fields: Any) -> ProviderSettings:
    """A provider's settings; ``extra`` are ``x_ldap_*`` values, ``fields`` belong to the record."""
    fields = {"bind_mode": "direct", "search_mode": "direct"} | fields
    record = LDAPProvider(
        pk=pk, name=f"provider {pk}", base_dn=base_dn, bind_flow_slug="bind-flow", application_slug="app", **fields
    )
    return resolve(record, lambda name: (extra or {}).get(name, EXTRAS_BY_NAME["ldap", name].default))


def table(*all_settings: ProviderSettings, snapshot: Snapshot | None = None) -> Providers:
    """Providers in service."""
    return Providers(Provider(one, snapshot) for one in all_settings)


def request(
    name: str | bytes = ALICE,
    password: str | bytes = "pw",
    *,
    version: int = 3,
    method: Authentication | None = None,
    controls: tuple[Control, ...] = (),
) -> BindRequest:
    """A bind request."""
    given = password.encode() if isinstance(password, str) else password
    raw = name.encode() if isinstance(name, str) else name
    return BindRequest(1, version, raw, method or Simple(given), controls)


class Login:
    """The login part: passes when the password is right, remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[LoginTarget, Credentials]] = []
        self.logged_out: list[tuple[CoreSession, str | None]] = []
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.expires: float | None = None
        self.used_code = False
        self.user_pk: int | None = 1
        self.may_search = True
        self.on_login: Callable[[], None] = lambda: None

    async def login(self, target: LoginTarget, credentials: Credentials) -> Outcome:
        """One flow run."""
        self.asked.append((target, credentials))
        number = len(self.asked)
        if self.gate is not None:
            await self.gate.wait()
        self.on_login()
        if self.error is not None:
            raise self.error
        if self.outcome is not None:
            return self.outcome
        if credentials.password != "pw":
            return Denied("invalid_credentials")
        session = CoreSession({"authentik_session": "secret cookie"}, f"{number:064d}", self.expires)
        return Passed(session, self.user_pk, None, self.may_search, None, self.used_code)

    async def logout(self, session: CoreSession, flow_slug: str | None, client_ip: str) -> bool:
        """One log-out."""
        self.logged_out.append((session, flow_slug))
        return True


class Desk:
    """An authenticator with everything around it in the test's hand."""

    def __init__(self, *, unbind_flow: str | None = None) -> None:
        self.login = Login()
        self.now = NOW
        self.used: set[str | None] = set()
        self.cache: BindCache[Identity] = BindCache(bytes(KEY_SIZE))
        self.authenticator = Authenticator(
            self.login,
            self.cache,
            now=lambda: self.now,
            in_use=lambda identity: identity.session.session_id in self.used,
            unbind_flow=lambda provider_pk: unbind_flow,
        )


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until a condition holds; a failure after five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition is about plain objects that set no event
            await asyncio.sleep(0)
