"""A browser for real daemons: keeps cookies by host and domain, follows redirects, fills in forms; no JavaScript.

Hosts of the tests have no address: ``places`` says where each of them is served.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

from tests.core.browsers import FORM, Document

TIMEOUT_S = 20.0
MAX_HOPS = 15
NAVIGATION = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}

Address = tuple[str, int]


@dataclass
class Got:
    """An answer. ``headers`` by lower-case name, all values in order."""

    url: str
    status: int
    headers: dict[str, list[str]]
    body: bytes

    def one(self, name: str) -> str:
        """The value of a header that is there once."""
        values = self.headers.get(name.lower(), [])
        assert len(values) == 1, (name, values)
        return values[0]

    @property
    def location(self) -> str:
        """Where it leads."""
        return urljoin(self.url, self.one("location"))

    @property
    def page(self) -> Document:
        """What a person sees."""
        return Document(self.body.decode())


def ask(
    address: Address,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    *,
    url: str = "",
) -> Got:
    """One request on a connection of its own."""
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=TIMEOUT_S)) as connection:
        connection.request(method, target, body, dict(headers))
        answer = connection.getresponse()
        found: dict[str, list[str]] = {}
        for name, value in answer.getheaders():
            found.setdefault(name.lower(), []).append(value)
        return Got(url, answer.status, found, answer.read())


@dataclass
class Web:
    """A browser. ``places``: ``host[:port]`` → address."""

    places: dict[str, Address]
    jar: dict[str, dict[str, str]] = field(default_factory=dict)
    visited: list[str] = field(default_factory=list)

    def cookies(self, host: str) -> str:
        """The ``Cookie`` header for a host."""
        found = dict(self.jar.get(host, {}))
        for domain, values in self.jar.items():
            if domain.startswith(".") and (host == domain[1:] or host.endswith(domain)):
                found |= values
        return "; ".join(f"{name}={value}" for name, value in found.items())

    def take(self, host: str, got: Got) -> None:
        """Keep the cookies of an answer."""
        for text in got.headers.get("set-cookie", []):
            parsed: SimpleCookie = SimpleCookie(text)
            for name, morsel in parsed.items():
                place = "." + morsel["domain"].lstrip(".") if morsel["domain"] else host
                values = self.jar.setdefault(place, {})
                if morsel["max-age"] == "0":
                    values.pop(name, None)
                else:
                    values[name] = morsel.coded_value

    def send(self, method: str, url: str, headers: Mapping[str, str] = NAVIGATION, body: bytes | None = None) -> Got:
        """One request with the host's cookies."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {"Host": parts.netloc, **headers}
        cookies = self.cookies(host)
        if cookies:
            sent["Cookie"] = cookies
        got = ask(self.places[parts.netloc], method, target, sent, body, url=url)
        self.take(host, got)
        self.visited.append(url)
        return got

    def open(self, url: str, *, until: str = "") -> Got:
        """Go to a page and wherever it leads, up to an address that begins with ``until``."""
        got = self.send("GET", url)
        return self.follow(got, until=until)

    def follow(self, got: Got, *, until: str = "") -> Got:
        """Go where an answer leads."""
        for _ in range(MAX_HOPS):
            if got.status not in (302, 303):
                return got
            if until and got.location.startswith(until):
                return got
            got = self.send("GET", got.location)
        raise AssertionError(f"endless redirects: {self.visited[-MAX_HOPS:]}")

    def submit(self, got: Got, *, until: str = "", **fields: str) -> Got:
        """Fill in the page's form and press its first button."""
        form = got.page.form
        assert form is not None, got.page.text
        body = urlencode(form.fields | fields).encode()
        headers = {**NAVIGATION, "Sec-Fetch-Site": "same-origin", "Content-Type": FORM}
        answer = self.send("POST", urljoin(got.url, form.action or got.url), headers, body)
        return self.follow(answer, until=until)
