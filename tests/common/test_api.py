"""The REST client: paging (C15, C16), retries, concurrency, and what each kind of failure becomes."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from common.api import PAGES_IN_FLIGHT, CoreApi, client_for
from common.errors import (
    CoreError,
    CoreForbidden,
    CoreNonsense,
    CoreNotFound,
    CoreRejected,
    CoreTimedOut,
    CoreUnavailable,
)
from tests.common.test_recorded_api import api_with
from tests.common.test_recorded_flows import Settings

JSON_TYPE = {"content-type": "application/json"}


class Listing:
    """A list at the core, in pages; ``before`` may fail or change it for a page, ``asked`` remembers page numbers."""

    def __init__(self, count: int) -> None:
        self.items = [{"pk": number, "name": f"n{number}"} for number in range(1, count + 1)]
        self.asked: list[int] = []
        self.waits: list[float] = []
        self.failures: dict[int, list[httpx.Response]] = {}
        self.change_after: dict[int, int] = {}  # page → items to drop from the front after it was read once
        self.in_flight = 0
        self.most_in_flight = 0
        self.page_size_cap = 100

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        query = parse_qs(request.url.query.decode())
        number, size = int(query["page"][0]), min(int(query["page_size"][0]), self.page_size_cap)
        self.asked.append(number)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        if self.failures.get(number):
            return self.failures[number].pop(0)
        total = max(1, -(-len(self.items) // size))
        if not 1 <= number <= total:
            return httpx.Response(404, json={"detail": "Invalid page."})
        chosen = self.items[(number - 1) * size : number * size]
        body = {
            "pagination": {
                "next": number + 1 if number < total else 0,
                "previous": number - 1,
                "count": len(self.items),
                "current": number,
                "total_pages": total,
                "start_index": 0,
                "end_index": 0,
            },
            "results": chosen,
            "autocomplete": {},
        }
        drop = self.change_after.pop(number, 0)
        self.items = self.items[drop:]
        return httpx.Response(200, json=body)

    async def read(self, page_size: int = 100) -> list[Any]:
        """Read it with our client."""
        api = api_with(self, sleep=self.sleep)
        try:
            return [json.loads(bytes(item)) for item in await api.listing("/outposts/ldap/", {}, page_size)]
        finally:
            await api.close()


def server_error(status: int = 500, **headers: str) -> httpx.Response:
    """A 5xx with a page of HTML."""
    return httpx.Response(status, headers={"content-type": "text/html", **headers}, text="<h1>no</h1>")


async def test_c15_230_providers_in_three_pages() -> None:
    """C15: three calls, everything kept, in order."""
    core = Listing(230)
    assert await core.read() == [{"pk": number, "name": f"n{number}"} for number in range(1, 231)]
    assert sorted(core.asked) == [1, 2, 3]


async def test_c16_page_that_fails_three_times() -> None:
    """C16: the listing is given up after three tries, at least a second apart."""
    core = Listing(230)
    core.failures[2] = [server_error() for _ in range(9)]
    with pytest.raises(CoreUnavailable, match="page 2 failed 3 times"):
        await core.read()
    assert core.asked.count(2) == 3
    assert len(core.waits) == 2
    assert min(core.waits) >= 1.0


async def test_c16_page_that_fails_twice() -> None:
    """C16: two failures are survived, and the core's ``Retry-After`` is honoured."""
    core = Listing(230)
    core.failures[2] = [server_error(503, **{"retry-after": "5"}), server_error(502)]
    assert len(await core.read()) == 230
    assert core.waits == [5.0, 2.0]


async def test_c16_invalid_page_starts_anew_once() -> None:
    """C16: a page that is gone meanwhile starts the listing anew, once."""
    core = Listing(230)
    core.failures[3] = [httpx.Response(404, json={"detail": "Invalid page."})]
    assert len(await core.read()) == 230
    assert core.asked.count(1) == 2

    core = Listing(230)
    core.failures[3] = [httpx.Response(404, json={"detail": "Invalid page."}) for _ in range(9)]
    with pytest.raises(CoreUnavailable, match="keeps changing"):
        await core.read()
    assert core.asked.count(1) == 2


async def test_list_that_changes_while_it_is_read() -> None:
    """Items that moved over a page's edge: read anew; nothing comes twice."""
    core = Listing(230)
    core.change_after[2] = 5
    found = await core.read()
    assert core.asked.count(1) == 2
    assert [item["pk"] for item in found] == list(range(6, 231))


async def test_page_from_another_moment_is_noticed() -> None:
    """A page that was cut while the list was longer, though the number of items read is right in the end."""
    core = Listing(230)
    extra = {"pk": 0, "name": "for a moment"}
    disturbed = False

    async def flicker(request: httpx.Request) -> httpx.Response:
        nonlocal disturbed
        if parse_qs(request.url.query.decode())["page"] == ["2"] and not disturbed:
            disturbed = True
            whole, core.items = core.items, [extra, *core.items]
            answer = await core(request)
            core.items = whole
            return answer
        return await core(request)

    api = api_with(flicker, sleep=core.sleep)
    keys = [json.loads(bytes(item))["pk"] for item in await api.listing("/core/users/", {}, 100)]
    assert keys == list(range(1, 231))
    await api.close()


async def test_list_that_keeps_changing_gives_no_item_twice() -> None:
    """The second reading takes what comes, but each item once."""
    core = Listing(230)
    core.failures[3] = [httpx.Response(404, json={"detail": "Invalid page."})]
    calls = 0

    async def grow(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        if calls > 4:  # during the second reading a new first item appears before each page
            core.items.insert(0, {"pk": -calls, "name": "new"})
        return await Listing.__call__(core, request)

    api = api_with(grow, sleep=core.sleep)
    keys = [json.loads(bytes(item))["pk"] for item in await api.listing("/core/users/", {}, 100)]
    assert len(keys) == len(set(keys))
    assert set(range(1, 231)) <= set(keys)
    await api.close()


async def test_pages_come_in_order_and_few_at_a_time() -> None:
    """Big lists are read a few pages at a time."""
    core = Listing(2000)
    api = api_with(core, sleep=core.sleep)
    pages = [page async for page in api.pages("/core/users/", {"include_groups": "true"}, 100)]
    assert [len(page) for page in pages] == [100] * 20
    assert [json.loads(bytes(page[0]))["pk"] for page in pages] == list(range(1, 2000, 100))
    assert 1 < core.most_in_flight <= PAGES_IN_FLIGHT
    await api.close()


async def test_page_size_is_capped_by_the_core() -> None:
    """The core gives fewer items a page than asked for: ``next`` and ``total_pages`` count, not our number."""
    core = Listing(230)
    core.page_size_cap = 50
    assert len(await core.read(page_size=1000)) == 230
    assert len(core.asked) == 5


async def test_empty_list() -> None:
    """No items, one call."""
    core = Listing(0)
    assert await core.read() == []
    assert core.asked == [1]


async def test_list_without_end() -> None:
    """A core that names a page before this one as the next one."""
    body = {"pagination": {"next": 1, "count": 2, "total_pages": 1}, "results": [{"pk": 1}]}
    api = api_with(lambda _: httpx.Response(200, json=body))
    with pytest.raises(CoreNonsense, match="backwards"):
        await api.listing("/core/users/", {}, 100)
    await api.close()


def raising(error: Exception) -> Any:
    """An answer that never comes."""

    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    return answer


def always(**arguments: Any) -> Any:
    """The same answer for every call."""
    status = arguments.pop("status", 200)
    return lambda _: httpx.Response(status, **arguments)


FAULTS = [
    ("connection refused", raising(httpx.ConnectError("refused")), CoreUnavailable),
    ("connect time-out", raising(httpx.ConnectTimeout("t")), CoreTimedOut),
    ("read time-out", raising(httpx.ReadTimeout("t")), CoreTimedOut),
    ("reset", raising(httpx.ReadError("reset")), CoreUnavailable),
    ("broken off", raising(httpx.RemoteProtocolError("incomplete")), CoreUnavailable),
    ("os error", raising(OSError("x")), CoreUnavailable),
    ("500", always(status=500, text="<h1>"), CoreUnavailable),
    ("503 booting", always(status=503, json={"error": "authentik starting"}), CoreUnavailable),
    ("429", always(status=429, json={"detail": "slow"}), CoreUnavailable),
    ("403", always(status=403, json={"detail": "Token invalid/expired"}), CoreForbidden),
    ("401", always(status=401, text=""), CoreForbidden),
    ("404 html", always(status=404, html="<h1>"), CoreNotFound),
    ("400", always(status=400, json={"field": ["msg"]}), CoreRejected),
    ("302", always(status=302, headers={"location": "/"}), CoreNonsense),
    ("html", always(html="<h1>hello</h1>"), CoreNonsense),
    ("truncated", always(headers=JSON_TYPE, content=b'{"pk": "1", "na'), CoreNonsense),
    ("wrong shape", always(json=[1, 2]), CoreNonsense),
    ("not utf-8", always(headers=JSON_TYPE, content=b"\xff\xfe{}"), CoreNonsense),
    ("deep", always(headers=JSON_TYPE, content=b"[" * 100_000), CoreNonsense),
]
CALLS: dict[str, Any] = {
    "outposts": lambda api: api.outposts(),
    "root_config": lambda api: api.root_config(),
    "brand": lambda api: api.brand(),
    "ldap_providers": lambda api: api.ldap_providers(),
    "radius_providers": lambda api: api.radius_providers(),
    "proxy_providers": lambda api: api.proxy_providers(),
    "users": lambda api: api.users(),
    "groups": lambda api: api.groups(),
    "certificate_key_pair": lambda api: api.certificate_key_pair("x"),
    "certificate_pem": lambda api: api.certificate_pem("x"),
    "private_key_pem": lambda api: api.private_key_pem("x"),
}
LISTS = {"ldap_providers", "radius_providers", "proxy_providers", "users", "groups"}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("fault", "answer", "expected"), FAULTS, ids=[row[0] for row in FAULTS])
async def test_every_call_meets_every_fault(call: str, fault: str, answer: Any, expected: type[CoreError]) -> None:
    """Whatever goes wrong, a call ends as ``CoreError`` of the right kind, and without the token in its text."""

    async def no_wait(seconds: float) -> None:
        return None

    api = api_with(answer, sleep=no_wait)
    if call in LISTS and issubclass(expected, CoreUnavailable | CoreNonsense):
        expected = CoreUnavailable  # tried three times, then given up
    with pytest.raises(expected) as caught:
        await CALLS[call](api)
    assert "outpost-token" not in str(caught.value)
    await api.close()


async def test_headers_of_every_call() -> None:
    """Token, user agent and accepted type; no cookie comes back from one call to the next."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={}, headers={"x-authentik-id": "r"})

    api = api_with(answer)
    await api.root_config()
    await api.brand()
    for request in seen:
        assert request.headers["authorization"] == "Bearer outpost-token"
        assert request.headers["user-agent"].startswith("goauthentik.io/outpost/")
        assert request.headers["accept"] == "application/json"
        assert request.url.path.startswith("/api/v3/")
        assert request.url.path.endswith("/")
    await api.close()


async def test_error_carries_request_id_and_retry_after() -> None:
    """For the log, and for the next try."""
    answer = always(status=503, json={"error": "x"}, headers={"x-authentik-id": "abc", "retry-after": "7"})
    api = api_with(answer)
    with pytest.raises(CoreUnavailable, match="abc") as caught:
        await api.root_config()
    assert caught.value.retry_after_s == 7.0
    await api.close()


async def test_no_cookie_is_kept() -> None:
    """A session cookie in one answer does not turn up in the next call."""
    client = client_for(Settings("outpost-token"))
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={}, headers={"set-cookie": "authentik_session=abc; Path=/"})

    client._transport = httpx.MockTransport(answer)
    api = CoreApi(Settings("outpost-token"), client=client)
    await api.root_config()
    await api.root_config()
    assert "cookie" not in seen[1].headers
    await api.close()
