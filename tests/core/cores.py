"""Embedded cores for tests: in this process, on a free port, with a clock that the test sets.

The set-up of the recordings is loaded once for the whole run; each test gets a copy of that database.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import json
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from core import models
from core.__main__ import RunningCore, running
from core.database import FILE_NAME
from core.settings import CoreSettings, load

DATA = Path(__file__).parent.parent / "data"
NOW = 1_764_000_000.0  # any fixed moment
OUTPOST = "RC LDAP outpost"
ADMIN_TOKEN = "admin-token-of-this-test"
MAX_FIELD = 256 * 1024  # bytes of a header; browsers take any Location that the core sends
LDAP_QUERY = "?query=goauthentik.io%252Foutpost%252Fldap%3Dtrue"


class Clock:
    """A time that only the test moves."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def settings(data: Path, *blueprints: Path, **environ: str) -> CoreSettings:
    """Settings for one free loopback port."""
    return load({"OUTPOSTS_CORE__LISTEN": "127.0.0.1:0", **environ}, data=data, blueprints=blueprints)


@functools.cache
def template(blueprint: Path) -> Path:
    """A data folder with the default objects and a blueprint; made once per run, copied by each test."""
    folder = Path(tempfile.mkdtemp(prefix="core-template-"))

    async def build() -> None:
        async with running(settings(folder, blueprint, AUTHENTIK_BOOTSTRAP_TOKEN=ADMIN_TOKEN), clock=Clock()):
            pass

    # a thread of its own: this may be called from a running loop
    trouble: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(build())
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if trouble:
        raise trouble[0]
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass
class Reply:
    """An answer: ``cookies`` maps the names that were set to their attributes."""

    status: int
    headers: Any
    body: bytes
    cookies: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        """The decoded body; ``None`` if it is no JSON."""
        if not self.headers.get("Content-Type", "").startswith("application/json"):
            return None
        return json.loads(self.body)

    @property
    def component(self) -> str:
        """The challenge's component, or ``302``."""
        return "302" if self.status == 302 else str((self.json or {}).get("component"))


class Client:
    """A browser or outpost: keeps cookies, follows nothing."""

    def __init__(self, core: Core, headers: Mapping[str, str] | None = None) -> None:
        self.core = core
        self.headers = dict(headers or {})
        self.jar: dict[str, str] = {}

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        raw: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request; ``body`` goes as JSON, ``raw`` as it is."""
        sent = self.headers | dict(headers or {})
        if self.jar:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        data: Any = raw
        if body is not None:
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        url = URL(self.core.url + path, encoded=True)
        async with self.core.http.request(method, url, data=data, headers=sent, allow_redirects=False) as answer:
            reply = Reply(answer.status, answer.headers, await answer.read())
        for value in answer.headers.getall("Set-Cookie", []):
            parsed: SimpleCookie = SimpleCookie(value)
            for name, morsel in parsed.items():
                reply.cookies[name] = {key: text for key, text in morsel.items() if text != ""}
                if morsel["max-age"] == "0":
                    self.jar.pop(name, None)
                else:
                    self.jar[name] = morsel.coded_value
        return reply

    async def get(self, path: str, **rest: Any) -> Reply:
        """GET below the API."""
        return await self.request("GET", "/api/v3" + path, **rest)

    async def post(self, path: str, body: Any = None, **rest: Any) -> Reply:
        """POST below the API."""
        return await self.request("POST", "/api/v3" + path, body=body, **rest)

    # --- flows -----------------------------------------------------------------------------------------------------

    async def flow(self, slug: str, body: Any = None, *, query: str | None = None, **rest: Any) -> Reply:
        """One executor request: GET, or POST with a body. ``query`` is the page's own query string."""
        path = f"/flows/executor/{slug}/" + ("" if query is None else f"?query={quote(query, safe='')}")
        if body is None:
            return await self.get(path, **rest)
        return await self.post(path, body, **rest)

    async def walk(self, slug: str, body: Any = None, *, query: str | None = None, **rest: Any) -> Reply:
        """Like :meth:`flow`, and follow the redirects to the same address."""
        reply = await self.flow(slug, body, query=query, **rest)
        for _ in range(20):
            if reply.status != 302:
                return reply
            reply = await self.request("GET", reply.headers["Location"])
        raise AssertionError("endless redirects")

    async def login(self, username: str, password: str, slug: str = "ldap-authentication-flow") -> Reply:
        """Identification with password, to the end of the flow."""
        return await self.walk(slug, {"uid_field": username, "password": password})


class Core:
    """A running core and a way to talk to it."""

    def __init__(self, inner: RunningCore, http: aiohttp.ClientSession, clock: Clock) -> None:
        self.inner = inner
        self.http = http
        self.clock = clock
        self.services = inner.services
        self.database = inner.services.database
        host, port = inner.listening[0]
        self.url = f"http://{host}:{port}"

    def client(self, **headers: str) -> Client:
        """A client without any rights."""
        return Client(self, headers)

    def bearer(self, token: str) -> Client:
        """A client with an API token."""
        return Client(self, {"Authorization": f"Bearer {token}"})

    def admin(self) -> Client:
        """A client with the administrator's token."""
        return self.bearer(ADMIN_TOKEN)

    def outpost_token(self, name: str = OUTPOST) -> str:
        """The API token of an outpost."""
        return self.database.outpost_token(name)

    def headless(self, name: str = OUTPOST, ip: str = "192.0.2.55") -> Client:
        """A client with outpost headers, as outposts talk to flows."""
        return Client(self, {"X-Authentik-Outpost-Token": self.outpost_token(name), "X-Authentik-Remote-Ip": ip})

    def user(self, username: str) -> models.User:
        """A user by name."""
        user = self.database.first(models.User, username=username)
        assert user is not None
        return user

    def session_count(self, username: str) -> int:
        """How many sessions a user has."""
        return self.database.count(models.Session, user=self.user(username).pk)


@contextlib.asynccontextmanager
async def core(
    blueprint: Path = DATA / "recorded-core.yaml", *, clock: Clock | None = None, **environ: str
) -> AsyncIterator[Core]:
    """A core with a copy of the template's database."""
    moment = clock or Clock()
    with tempfile.TemporaryDirectory(prefix="core-test-") as folder:
        source = template(blueprint)
        for path in source.glob(FILE_NAME + "*"):
            shutil.copy(path, folder)
        async with (
            running(settings(Path(folder), **environ), clock=moment) as inner,
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), max_field_size=MAX_FIELD) as http,
        ):
            yield Core(inner, http, moment)


__all__ = ["ADMIN_TOKEN", "NOW", "OUTPOST", "Client", "Clock", "Core", "Reply", "core", "settings"]
