"""The login path's HTTP port, and aiohttp's client behind it (design.md §4.13).

A transport sends exactly the bytes of the target it is given, follows no redirect, keeps no cookie and adds no
``Authorization``: two logins that share it share nothing but connections.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.request import getproxies_environment, proxy_bypass

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from common.endpoint import CoreSettings, Endpoint, endpoint
from common.errors import CoreNonsense, CoreTimedOut, CoreUnavailable
from common.version import user_agent

CONNECT_TIMEOUT_S = 5.0  # core-contract §3; a core on the same continent connects in a tenth of it
MAX_CONNECTIONS = 64  # contract asks for at least 32; one login needs two at a time (access check and user look-up)
# Idle connections are dropped before the core drops them: uvicorn keeps 5 s, routers in front of it longer. A POST on a
# connection that the other side is just closing is lost, and a POST must never be repeated.
KEEP_ALIVE_S = 4.0
DNS_CACHE_S = 10  # a core that moves to another address is found again within that time
MAX_ANSWER_BYTES = 1024 * 1024  # answers on this path are below 10 KiB; a webauthn challenge with many keys below 100


@dataclass(frozen=True)
class Response:
    """One HTTP answer. Header names compare without case; ``headers.getall("set-cookie", [])`` gives every cookie."""

    status: int
    headers: CIMultiDictProxy[str] = field(repr=False)
    body: bytes = field(repr=False)

    @classmethod
    def of(cls, status: int, headers: Sequence[tuple[str, str]], body: bytes = b"") -> Response:
        """From plain pairs."""
        return cls(status, CIMultiDictProxy(CIMultiDict(headers)), body)

    @property
    def is_json(self) -> bool:
        """Whether the answer says that its body is JSON; only then may it be parsed."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"

    @property
    def request_id(self) -> str | None:
        """The core's name for the request."""
        return self.headers.get("x-authentik-id")


class Transport(Protocol):
    """What the login path needs of HTTP."""

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]],
        body: bytes | None = None,
        timeout_s: float,
    ) -> Response:
        """Send one request and read its whole answer.

        ``target`` is path and query below the host's sub-path, sent byte for byte. Redirects are answers like others.
        Raises ``CoreTimedOut`` or ``CoreUnavailable`` without an answer, ``CoreNonsense`` for one that is not HTTP or
        too long.
        """

    async def close(self) -> None:
        """Close idle connections."""


def tls_context(settings: CoreSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer; roots of the system, or of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``; no check if insecure."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def proxy_for(where: Endpoint) -> str | None:
    """URL of the HTTP proxy that the environment names for this core, honouring ``NO_PROXY``.

    Asked here, and not left to the HTTP library's own reading of the environment, because that would also take
    credentials from a ``.netrc`` file and send them as ``Authorization``.
    """
    if where.socket_path is not None or proxy_bypass(where.authority):
        return None
    proxies = getproxies_environment()
    return proxies.get(where.scheme) or proxies.get("all") or None


def connector(settings: CoreSettings, where: Endpoint, *, limit: int = MAX_CONNECTIONS) -> aiohttp.BaseConnector:
    """A connection pool to the core: TCP, TLS or unix socket. Must be called inside the event loop."""
    if where.socket_path is not None:
        return aiohttp.UnixConnector(where.socket_path, limit=limit, keepalive_timeout=KEEP_ALIVE_S)
    context: ssl.SSLContext | bool = tls_context(settings) if where.scheme == "https" else True
    return aiohttp.TCPConnector(limit=limit, keepalive_timeout=KEEP_ALIVE_S, ssl=context, ttl_dns_cache=DNS_CACHE_S)


class AiohttpTransport:
    """aiohttp's client as ``Transport``: one pool and one session for the whole daemon."""

    def __init__(self, settings: CoreSettings, *, default_headers: Mapping[str, str] | None = None) -> None:
        self._settings = settings
        self._endpoint = endpoint(settings)
        self._proxy = proxy_for(self._endpoint)
        self._default_headers = {"User-Agent": user_agent(), "Accept": "application/json", **(default_headers or {})}
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=connector(self._settings, self._endpoint),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._default_headers,
                trust_env=False,
            )
        return self._session

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]],
        body: bytes | None = None,
        timeout_s: float,
    ) -> Response:
        """See ``Transport.request``."""
        call = f"{method} {target.partition('?')[0]}"
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s))
        try:
            async with self._open().request(
                method,
                URL(self._endpoint.url(target), encoded=True),
                headers=headers,
                data=body,
                timeout=timeout,
                allow_redirects=False,
                proxy=self._proxy,
            ) as answer:
                content = await _read(answer, call)
                return Response(answer.status, answer.headers, content)
        except TimeoutError:
            raise CoreTimedOut(call, f"no answer within {timeout_s:g} s") from None
        except aiohttp.ClientPayloadError:
            raise CoreUnavailable(call, "the answer broke off") from None
        except aiohttp.ClientResponseError as error:
            raise CoreNonsense(call, f"not an HTTP answer: {type(error).__name__}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise CoreUnavailable(call, plain(error)) from None

    async def close(self) -> None:
        """Close the pool; the next request opens a new one."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def plain(error: Exception) -> str:
    """An error's kind and the system's text for it; never its message, which may quote what was sent."""
    cause: Any = getattr(error, "os_error", error)
    text = getattr(cause, "strerror", None)
    return f"{type(error).__name__}: {text}" if isinstance(text, str) else type(error).__name__


async def _read(answer: aiohttp.ClientResponse, call: str) -> bytes:
    """The whole body, or an error before more than the cap is kept."""
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            answer.close()
            raise CoreNonsense(call, f"answer of more than {MAX_ANSWER_BYTES} bytes", status=answer.status)
        parts.append(part)
    return b"".join(parts)
