"""What planner, executor, stages and API share: storage, sessions, passwords, policies, time."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any

import httpx

from core import models
from core.access import Access
from core.database import Database, model_name
from core.hashing import PasswordHasher
from core.http_request import HTTPRequest
from core.limits import Limit
from core.mail import Mailer
from core.policies.engine import PolicyEngine
from core.sessions import SessionStore
from core.settings import MailSettings

APP_FLOWS = "authentik.flows"
HTTP_TIMEOUT_S = 10.0  # calls to SMS and captcha services, while somebody waits
MAX_CODES = 5  # codes by mail or SMS to one device…
CODES_WINDOW_S = 600.0  # …within ten minutes
LAST_LOGIN_GRAIN_S = 1.0  # a user's row is written at most once a second for the login time


class Services:
    """One per process; ``clock`` gives Unix seconds."""

    def __init__(
        self,
        database: Database,
        *,
        engine: PolicyEngine,
        passwords: PasswordHasher,
        mailer: Mailer | None = None,
        public_url: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.engine = engine
        self.access = Access(database, engine)
        self.passwords = passwords
        self.now = clock
        self.sessions = SessionStore(database, clock)
        self.mailer = mailer or Mailer(MailSettings())
        self.public_url = public_url
        self.http = httpx.AsyncClient(timeout=HTTP_TIMEOUT_S, follow_redirects=False)
        self.sent_codes = Limit(MAX_CODES, CODES_WINDOW_S)
        self.sent_mails = Limit(MAX_CODES, CODES_WINDOW_S)  # stages name their own numbers
        self.anonymous = models.anonymous_user()
        self._derive_from = bytes.fromhex(database.secret("derive_key"))

    def derived_key(self, purpose: str) -> bytes:
        """A stable 32-byte key of this installation for one purpose."""
        return hmac.digest(self._derive_from, purpose.encode(), hashlib.sha256)

    def address(self, request: HTTPRequest, path: str) -> str:
        """A full address of this core, for mails and other hosts; ``path`` starts with a slash."""
        return (self.public_url or f"{'https' if request.secure else 'http'}://{request.host}") + path

    async def close(self) -> None:
        """Let go of threads and connections."""
        self.mailer.close()
        await self.http.aclose()

    def policies_bound(self, target_pk: str) -> bool:
        """Whether any enabled policy binding hangs on a target."""
        return self.database.exists(models.PolicyBinding, target=target_pk, enabled=True)

    def reputation(self, identifier: str, ip: str, by: int) -> None:
        """Change the score of a name at an address."""
        self.database.change_reputation(identifier, ip, by)

    def event(self, action: str, request: HTTPRequest, *, stage: models.Stage | None = None, **context: Any) -> None:
        """Store an event about a flow; ``context`` must hold no secret."""
        if stage is not None:
            context["stage"] = {"app": stage.type.split(".")[0], "model_name": stage.type, "pk": stage.pk}
        if request.outpost is not None:
            context["outpost"] = {"pk": request.outpost.pk, "name": request.outpost.name}
        context["http_request"] = {"path": request.path, "method": request.method, "request_id": request.request_id}
        user = request.user if request.user.is_authenticated else None
        self.database.log_event(
            action, APP_FLOWS, context=context, user=user, client_ip=request.client_ip, brand=request.brand
        )

    def created(self, request: HTTPRequest, record: models.Model) -> None:
        """Store the event of something that a person made for himself, such as a device."""
        model = model_name(record)
        described = {
            "app": model.split(".")[0],
            "model_name": model,
            "pk": record.pk,
            "name": getattr(record, "name", ""),
        }
        self.event("model_created", request, model=described)

    def logged_in(self, user: models.User) -> None:
        """Note the time of a login."""
        now = self.now()
        if user.last_login is None or now - user.last_login >= LAST_LOGIN_GRAIN_S:
            self.database.note_login(user, now)

    def end_other_sessions(self, user: models.User, *, keep: str) -> None:
        """End all sessions of a user but ``keep``; outposts are told of each."""
        self.database.end_sessions(int(user.pk or 0), keep=keep)
