"""Services that the core talks to, as test peers: a mail server, an SMS service, and Duo that checks signatures."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ssl
import tempfile
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import httpx
from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from tests.certificates import key_pair
from tests.core.cores import Core

DUO_ID, DUO_SECRET = "DITESTTESTTESTTEST01", "duo-secret-of-this-test"
MAIL_USER, MAIL_PASSWORD = "mailer", "mail-pw"


# --- mail ------------------------------------------------------------------------------------------------------------


@dataclass
class MailServer:
    """What arrived, in order. ``refuse`` is answered to every recipient if it is set."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    refuse: str = ""
    ca: Path | None = None

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        """Accept or refuse a recipient."""
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep a mail."""
        parsed = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        self.mails.append(parsed)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"

    def text(self, number: int = -1) -> str:
        """The text part of a mail."""
        part = self.mails[number].get_body(("plain",))
        assert part is not None
        return str(part.get_content())

    def code(self) -> str:
        """The six digits of the newest mail."""
        digits = [word for word in self.text().split() if len(word) == 6 and word.isdigit()]
        assert len(digits) == 1, self.text()
        return digits[0]


class _Controller(Controller):
    """A controller whose port the system chooses."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextlib.contextmanager
def mail_server(*, tls: bool = False, login: bool = False) -> Iterator[MailServer]:
    """A mail server on loopback in a thread; ``tls``: only after STARTTLS; ``login``: only for ``MAIL_USER``."""
    server = MailServer()
    named: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if tls:
            context = server_context(Path(folder))
            server.ca = Path(folder) / "ca.pem"
            named |= {"tls_context": context, "require_starttls": True}
        if login:

            def check(server: SMTP, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
                good = isinstance(data, LoginPassword) and (data.login, data.password) == (
                    MAIL_USER.encode(),
                    MAIL_PASSWORD.encode(),
                )
                return AuthResult(success=good, handled=False)

            named |= {"authenticator": check, "auth_required": True, "auth_require_tls": tls}
        controller = _Controller(server, hostname="127.0.0.1", port=0, **named)
        controller.start()
        server.port = controller.port
        try:
            yield server
        finally:
            controller.stop()


def server_context(folder: Path, name: str = "localhost") -> ssl.SSLContext:
    """A context with a fresh certificate, which is left in ``folder/ca.pem``."""
    pair = key_pair(name)
    (folder / "ca.pem").write_text(pair.certificate)
    (folder / "key.pem").write_text(pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


# --- SMS -------------------------------------------------------------------------------------------------------------


@dataclass
class SMSService:
    """What was posted: authorization header and decoded body. ``status`` is what it answers."""

    url: str = ""
    posts: list[tuple[str, Any]] = field(default_factory=list)
    status: int = 200

    async def handle(self, request: web.Request) -> web.Response:
        """Take a message."""
        self.posts.append((request.headers.get("Authorization", ""), await request.json()))
        return web.json_response({}, status=self.status)

    @property
    def code(self) -> str:
        """The code of the newest message."""
        return str(self.posts[-1][1]["Body"])


@contextlib.asynccontextmanager
async def sms_service() -> AsyncIterator[SMSService]:
    """A generic SMS service on loopback."""
    service = SMSService()
    app = web.Application()
    app.router.add_post("/send", service.handle)
    async with _serving(app) as port:
        service.url = f"http://127.0.0.1:{port}/send"
        yield service


@contextlib.asynccontextmanager
async def _serving(app: web.Application, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


# --- Duo -------------------------------------------------------------------------------------------------------------


@dataclass
class Duo:
    """Duo's Auth API. A push is answered by ``answers`` (one for each question about it); ``refused`` counts requests
    whose signature was wrong. ``activated`` says whether a phone was added."""

    host: str = ""
    answers: list[str] = field(default_factory=list)
    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    refused: int = 0
    activated: str = "success"
    broken: bool = False
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    hold: bool = False

    async def handle(self, request: web.Request) -> web.Response:
        """Check who asks, then answer."""
        if self.broken:
            return web.Response(status=502, text="bad gateway")
        body = (await request.read()).decode()
        parameters = dict(parse_qsl(request.rel_url.raw_query_string if request.method == "GET" else body, True))
        if not self._signed(request, parameters):
            self.refused += 1
            return web.json_response({"stat": "FAIL", "code": 40103, "message": "Invalid signature"}, status=401)
        self.calls.append((request.path, parameters))
        match request.path:
            case "/auth/v2/enroll":
                found: Any = {
                    "user_id": f"DU-{parameters['username']}",
                    "username": parameters["username"],
                    "activation_code": "duo://code",
                    "activation_barcode": "https://duo.test/frame/qr?value=1",
                    "expiration": 1,
                }
            case "/auth/v2/enroll_status":
                found = self.activated
            case "/auth/v2/auth":
                assert parameters["async"] == "1"
                found = {"txid": "t-1"}
            case "/auth/v2/auth_status":
                assert parameters == {"txid": "t-1"}
                self.asked.set()
                if self.hold:  # until the person takes up the phone
                    await self.answered.wait()
                result = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                found = {"result": result, "status": "pushed" if result == "waiting" else result, "status_msg": ""}
            case _:
                return web.json_response({"stat": "FAIL", "code": 40401}, status=404)
        return web.json_response({"stat": "OK", "response": found})

    def _signed(self, request: web.Request, parameters: dict[str, str]) -> bool:
        """As Duo's documentation says, written anew: date, method, host, path, sorted parameters."""
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic":
            return False
        key, _, given = b64decode(credentials).decode().partition(":")
        line = "&".join(
            f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(parameters.items())
        )
        text = f"{request.headers['Date']}\n{request.method}\n{request.host.lower()}\n{request.path}\n{line}"
        expected = hmac.new(DUO_SECRET.encode(), text.encode(), hashlib.sha512).hexdigest()
        return key == DUO_ID and hmac.compare_digest(expected, given)


@contextlib.asynccontextmanager
async def duo(running: Core) -> AsyncIterator[Duo]:
    """Duo over TLS on loopback; the core is made to trust its certificate."""
    peer = Duo()
    app = web.Application()
    app.router.add_route("*", "/auth/v2/{call}", peer.handle)
    with tempfile.TemporaryDirectory() as folder:
        context = server_context(Path(folder))
        trusting = ssl.create_default_context(cafile=str(Path(folder) / "ca.pem"))
        async with _serving(app, context) as port:
            peer.host = f"localhost:{port}"
            await running.services.http.aclose()
            running.services.http = httpx.AsyncClient(verify=trusting)
            yield peer
