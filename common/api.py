"""The core's REST API over httpx: lists, records, certificates, events (core-contract §3). Not the login path.

Listings come as raw JSON items, so that a digest can be taken of each before it is decoded. A listing is complete or an
error: its pages are handed out only when all of them are there and fit together.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from common import endpoint, logs
from common.endpoint import CoreSettings, Params
from common.errors import (
    CoreError,
    CoreForbidden,
    CoreNonsense,
    CoreNotFound,
    CoreRejected,
    CoreTimedOut,
    CoreUnavailable,
)
from common.records import (
    Brand,
    CertificateData,
    CertificateKeyPair,
    LDAPProvider,
    OutpostRecord,
    Page,
    Pagination,
    ProxyProvider,
    RadiusProvider,
    RootConfig,
)
from common.transport import proxy_for, tls_context
from common.version import user_agent

CONNECT_TIMEOUT_S = 5.0  # core-contract §3
READ_TIMEOUT_S = 30.0  # core-contract §3: a page of 100 users with their groups takes a real core 0.2 to 2 s
CALL_TIMEOUT_S = 120.0  # one call as a whole: the read time-out alone would let a core drip bytes for ever
MAX_CONNECTIONS = 32  # core-contract §3
KEEP_ALIVE_S = 4.0  # shorter than any server in front of a core keeps an idle connection (uvicorn: 5 s)
PAGE_TRIES = 3  # of one page; then the listing is given up and the old data kept (C16)
PAGE_WAIT_S = 1.0  # before the second try; doubled before the third
MAX_PAGE_WAIT_S = 60.0  # even if the core asks for more
PAGES_IN_FLIGHT = 4  # a core of two workers is busy with that; more only queues there
MAX_PAGES = 100_000  # a core that always names a next page must not fill our memory
PROVIDER_PAGE_SIZE = 100  # the core's default maximum

T = TypeVar("T")

log = logs.get_logger("api")


class ListingChanged(Exception):
    """The list changed between two of its pages: what was read of it is to be forgotten."""


class _RawPage(msgspec.Struct):
    """One page, items undecoded."""

    pagination: Pagination
    results: list[msgspec.Raw]


class _Key(msgspec.Struct):
    """An item's primary key."""

    pk: str | int


class _Detail(msgspec.Struct):
    """A refusal's text."""

    detail: str = ""


_pages = msgspec.json.Decoder(_RawPage)
_keys = msgspec.json.Decoder(_Key)
_details = msgspec.json.Decoder(_Detail)


def client_for(settings: CoreSettings) -> httpx.AsyncClient:
    """An HTTP client for the core: HTTP/1.1, bounded pool and times, redirects not followed, no ``.netrc``."""
    where = endpoint.endpoint(settings)
    limits = httpx.Limits(
        max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_S
    )
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(
            verify=tls_context(settings) if where.scheme == "https" else False,
            http1=True,
            http2=False,
            limits=limits,
            trust_env=False,
            proxy=proxy_for(where),
            uds=where.socket_path,
        ),
        timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=READ_TIMEOUT_S),
        follow_redirects=False,
        trust_env=False,
        # The token alone says who we are; a session cookie that the core sets must not come back to it.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


class CoreApi:
    """What an outpost reads of its core. Every call raises ``CoreError``; ``sleep`` is for tests."""

    def __init__(
        self,
        settings: CoreSettings,
        *,
        client: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._where = endpoint.endpoint(settings)
        self._client = client or client_for(settings)
        self._sleep = sleep
        self._headers = {
            "Authorization": f"Bearer {settings.token}",
            "Accept": "application/json",
            "User-Agent": user_agent(),
        }

    async def close(self) -> None:
        """Close idle connections."""
        await self._client.aclose()

    # Records

    async def outposts(self) -> list[OutpostRecord]:
        """Outposts that the token may see: mostly one."""
        page = await self._get("/outposts/instances/", (), Page[OutpostRecord])
        return page.results

    async def root_config(self) -> RootConfig:
        """Cache times and capabilities."""
        return await self._get("/root/config/", (), RootConfig)

    async def brand(self) -> Brand:
        """The brand that the core shows under our Host."""
        return await self._get("/core/brands/current/", (), Brand)

    async def ldap_providers(self) -> list[LDAPProvider]:
        """LDAP providers of this outpost."""
        return await self._providers("/outposts/ldap/", LDAPProvider)

    async def radius_providers(self) -> list[RadiusProvider]:
        """RADIUS providers of this outpost."""
        return await self._providers("/outposts/radius/", RadiusProvider)

    async def proxy_providers(self) -> list[ProxyProvider]:
        """Proxy providers of this outpost."""
        return await self._providers("/outposts/proxy/", ProxyProvider)

    async def _providers(self, path: str, kind: type[T]) -> list[T]:
        items = await self.listing(path, (), PROVIDER_PAGE_SIZE)
        try:
            return [msgspec.json.decode(item, type=kind) for item in items]
        except msgspec.MsgspecError:
            raise CoreNonsense(f"GET {endpoint.API}{path}", "a provider of unexpected shape") from None

    async def certificate_key_pair(self, pk: str) -> CertificateKeyPair:
        """Name and fingerprint of a key pair."""
        return await self._get(f"/crypto/certificatekeypairs/{quote(pk, safe='')}/", (), CertificateKeyPair)

    async def certificate_pem(self, pk: str) -> str:
        """A key pair's certificate, maybe with its chain."""
        path = f"/crypto/certificatekeypairs/{quote(pk, safe='')}/view_certificate/"
        return (await self._get(path, (), CertificateData)).data

    async def private_key_pem(self, pk: str) -> str:
        """A key pair's private key; empty if it has none."""
        path = f"/crypto/certificatekeypairs/{quote(pk, safe='')}/view_private_key/"
        return (await self._get(path, (), CertificateData)).data

    async def report_event(self, action: str, context: Mapping[str, Any], client_ip: str | None = None) -> None:
        """Write an event into the core's log. ``client_ip`` may have any literal form; what is none is left out."""
        try:
            address = endpoint.bare_address(client_ip) if client_ip else None
        except ValueError:
            address = None
        body = {"action": action, "context": dict(context), "client_ip": address}
        await self._call("POST", "/events/events/", (), body)

    async def user(self, pk: int) -> msgspec.Raw:
        """One user, undecoded. Raises ``CoreNotFound`` for one that the token may not see."""
        return await self._get(f"/core/users/{pk}/", (), msgspec.Raw)

    # Listings

    async def users(self, params: Params = (), page_size: int = 100) -> list[msgspec.Raw]:
        """All users that the parameters select."""
        return await self.listing("/core/users/", params, page_size)

    async def groups(self, params: Params = (), page_size: int = 100) -> list[msgspec.Raw]:
        """All groups that the parameters select."""
        return await self.listing("/core/groups/", params, page_size)

    async def listing(self, path: str, params: Params, page_size: int) -> list[msgspec.Raw]:
        """All items of a listing, in the core's order."""
        return [item for page in await self._whole(path, params, page_size) for item in page]

    async def pages(self, path: str, params: Params, page_size: int) -> AsyncIterator[list[msgspec.Raw]]:
        """A listing page by page. Nothing is handed out before all pages are there, so nothing comes twice."""
        for page in await self._whole(path, params, page_size):
            yield page

    async def _whole(self, path: str, params: Params, page_size: int) -> list[list[msgspec.Raw]]:
        """All pages. If the list changes meanwhile it is read once more, page after page, and taken as it comes.

        With that second reading nothing comes twice; what moved over a page's edge may be missing until the next
        refresh.
        """
        try:
            return [page async for page in self.pages_as_read(path, params, page_size)]
        except ListingChanged:
            log.debug("listing changed while it was read, starting anew", path=path)
        try:
            return [page async for page in self.pages_as_read(path, params, page_size, careful=True)]
        except ListingChanged:
            raise self.keeps_changing(path) from None

    @staticmethod
    def keeps_changing(path: str) -> CoreUnavailable:
        """The error for a list that changed during the careful reading too."""
        return CoreUnavailable(f"GET {endpoint.API}{path}", "the list keeps changing")

    async def pages_as_read(
        self, path: str, params: Params, page_size: int, *, careful: bool = False
    ) -> AsyncIterator[list[msgspec.Raw]]:
        """A listing page by page while it is read, for who cannot hold all of it; close it if you leave early.

        ``ListingChanged`` may come at any time, also behind the last page: then forget everything and read again, the
        second time with ``careful``.
        """
        read = self._careful if careful else self._fast
        async with contextlib.aclosing(read(path, params, page_size)) as pages:
            async for page in pages:
                yield page

    async def _fast(self, path: str, params: Params, page_size: int) -> AsyncGenerator[list[msgspec.Raw], None]:
        """First page, then the others a few at a time; ``ListingChanged`` unless they fit together."""
        first = await self._page(path, params, page_size, 1)
        total, count = int(first.pagination.total_pages), int(first.pagination.count)
        if first.pagination.next <= 0:
            yield first.results
            return
        if not 1 < total <= MAX_PAGES:
            raise ListingChanged
        found = len(first.results)
        numbers = iter(range(2, total + 1))
        coming: deque[asyncio.Task[_RawPage]] = deque()

        def ask(limit: int) -> None:
            for number in islice(numbers, limit):
                coming.append(asyncio.create_task(self._page(path, params, page_size, number)))

        try:
            ask(PAGES_IN_FLIGHT)
            yield first.results
            while coming:
                page = await coming[0]
                coming.popleft()
                ask(1)
                if int(page.pagination.count) != count or (page.pagination.next <= 0) is bool(coming):
                    raise ListingChanged
                found += len(page.results)
                yield page.results
        finally:
            for task in coming:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)
        if found != count:
            raise ListingChanged

    async def _careful(self, path: str, params: Params, page_size: int) -> AsyncGenerator[list[msgspec.Raw], None]:
        """Page after page by ``next``; an item that comes again is dropped."""
        seen: set[str | int] = set()
        number = 1
        for _ in range(MAX_PAGES):
            page = await self._page(path, params, page_size, number)
            items = []
            for item in page.results:
                try:
                    key = _keys.decode(item).pk
                except msgspec.MsgspecError:
                    raise CoreNonsense(f"GET {endpoint.API}{path}", "an item without key") from None
                if key not in seen:
                    seen.add(key)
                    items.append(item)
            yield items
            following = int(page.pagination.next)
            if following <= 0:
                return
            if following <= number:
                raise CoreNonsense(f"GET {endpoint.API}{path}", "the list goes backwards")
            number = following
        raise CoreNonsense(f"GET {endpoint.API}{path}", "the list has no end")

    async def _page(self, path: str, params: Params, page_size: int, number: int) -> _RawPage:
        """One page, tried three times; a page out of range means that the list has changed."""
        pairs = list(params.items()) if isinstance(params, Mapping) else list(params)
        pairs += [("page", str(number)), ("page_size", str(page_size))]
        for attempt in range(1, PAGE_TRIES + 1):
            try:
                body = await self._call("GET", path, pairs)
                return self._decode(f"GET {endpoint.API}{path}", body, _pages.decode)
            except CoreNotFound as error:
                if error.problem == "Invalid page.":
                    raise ListingChanged from None
                raise
            except (CoreUnavailable, CoreNonsense) as error:
                if attempt == PAGE_TRIES:
                    raise CoreUnavailable(
                        error.call,
                        f"page {number} failed {PAGE_TRIES} times: {error.problem}",
                        status=error.status,
                        request_id=error.request_id,
                        retry_after_s=error.retry_after_s,
                    ) from error
                wait_s = max(PAGE_WAIT_S * 2 ** (attempt - 1), error.retry_after_s or 0)
                await self._sleep(min(wait_s, MAX_PAGE_WAIT_S))
        raise AssertionError("unreachable")

    # Calls

    async def _get(self, path: str, params: Params, kind: type[T]) -> T:
        body = await self._call("GET", path, params)
        return self._decode(f"GET {endpoint.API}{path}", body, lambda data: msgspec.json.decode(data, type=kind))

    @staticmethod
    def _decode(call: str, body: bytes, decode: Callable[[bytes], T]) -> T:
        try:
            return decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            # The library's message may quote the body, which may be a private key.
            raise CoreNonsense(call, "answer of unexpected shape") from None

    async def _call(self, method: str, path: str, params: Params, body: Mapping[str, Any] | None = None) -> bytes:
        """One call; the body of a JSON answer with a 2xx status, else the error that it means."""
        call = f"{method} {endpoint.API}{path}"
        url = self._where.url(endpoint.api_target(path, params))
        headers = dict(self._headers)
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                answer = await self._client.request(method, url, headers=headers, content=content)
        except (httpx.TimeoutException, TimeoutError) as error:
            raise CoreTimedOut(call, type(error).__name__) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise CoreUnavailable(call, _reason(error)) from None
        if answer.is_success:
            if not _is_json(answer):
                raise CoreNonsense(
                    call,
                    "not a JSON answer",
                    status=answer.status_code,
                    request_id=answer.headers.get("x-authentik-id"),
                )
            return answer.content
        raise _error(call, answer)


def _reason(error: Exception) -> str:
    """An error's kind and the system's own words below it; never a library's message, which may quote what was sent."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ssl.SSLCertVerificationError):
            return f"the core's certificate is not trusted: {below.verify_message}"
        if isinstance(below, OSError) and isinstance(below.strerror, str):
            return f"{type(error).__name__}: {below.strerror}"
        if isinstance(below, BaseExceptionGroup):
            below = below.exceptions[0]
        else:
            below = below.__cause__ or below.__context__
    return type(error).__name__


def _is_json(answer: httpx.Response) -> bool:
    kind: str = answer.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == "application/json"


def _error(call: str, answer: httpx.Response) -> CoreError:
    """What an answer without success means. Its body is read only if it says that it is JSON."""
    status = answer.status_code
    request_id = answer.headers.get("x-authentik-id")
    problem = ""
    if _is_json(answer):
        try:
            problem = _details.decode(answer.content).detail
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            problem = ""
    if status == 429 or status >= 500:
        after = answer.headers.get("retry-after", "").strip()
        retry_after_s = float(after) if after.isascii() and after.isdigit() else None
        return CoreUnavailable(
            call, problem or "the core cannot answer", status=status, request_id=request_id, retry_after_s=retry_after_s
        )
    if status in (401, 403):
        return CoreForbidden(call, problem or "refused", status=status, request_id=request_id)
    if status == 404:
        return CoreNotFound(call, problem or "not found", status=status, request_id=request_id)
    if status < 400:
        return CoreNonsense(call, "redirect", status=status, request_id=request_id)
    fields: dict[str, object] = {}
    if _is_json(answer):
        try:
            fields = msgspec.json.decode(answer.content, type=dict[str, object])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            fields = {}
    return CoreRejected(call, problem or "request refused", fields=fields, status=status, request_id=request_id)
