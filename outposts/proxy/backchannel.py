"""Our own calls to a provider's endpoints: small forms out, small JSON objects in, and nothing else counts.

One keep-alive client per origin, the core's rules for TLS (``AUTHENTIK_INSECURE``), its unix socket if that is how it
is reached, a time-out over everything, no redirects (a token sent to one place is not sent on to another), a size cap
per answer, and only ``application/json`` is read. Nothing is sent twice: codes and refresh tokens are used up by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from common.endpoint import CoreSettings
from common.errors import CoreError, CoreNonsense, CoreUnavailable
from common.lean_transport import transport_for
from common.transport import Response, Transport
from common.version import user_agent
from outposts.proxy.endpoints import origin

TIMEOUT_S = 10.0  # for one call; the core needs half a second for a token, and a person waits for the page (L12)
MAX_ANSWER = 262_144  # octets of one answer: two tokens of 64 KiB and their names
MAX_ORIGINS = 16  # endpoints of all providers are at one core, under a few names at most

TransportFactory = Callable[[CoreSettings], Transport]


class CallError(Exception):
    """No usable answer. ``answered``: there was one, so asking again will not help."""

    def __init__(self, problem: str, *, answered: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.answered = answered


@dataclass(frozen=True, slots=True)
class _Origin:
    """Settings of a connection to one origin; see ``common.endpoint.CoreSettings``."""

    host: str
    host_socket: str | None
    insecure: bool
    host_query: str = ""
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """A JSON object that the core answered with, and the status it had."""

    status: int
    content: Mapping[str, Any] = field(repr=False)


class BackChannel:
    """All calls of one daemon to OpenID endpoints. To be used on one event loop."""

    def __init__(
        self, settings: CoreSettings, *, timeout_s: float = TIMEOUT_S, transport: TransportFactory = transport_for
    ) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._make = transport
        self._transports: dict[str, Transport] = {}

    async def post(self, url: str, form: Sequence[tuple[str, str]], headers: Sequence[tuple[str, str]] = ()) -> Reply:
        """Send a form. Raises ``CallError``."""
        body = urlencode(list(form)).encode()
        kind = ("Content-Type", "application/x-www-form-urlencoded")
        return await self._call("POST", url, [kind, *headers], body)

    async def get(self, url: str, headers: Sequence[tuple[str, str]] = ()) -> Reply:
        """Fetch an object. Raises ``CallError``."""
        return await self._call("GET", url, headers, None)

    async def _call(self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes | None) -> Reply:
        place = origin(url)
        if place is None:
            raise CallError("the provider names no such endpoint")
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if self._settings.host_socket is not None and not any(name.lower() == "host" for name, _ in headers):
            headers = [("Host", place[1]), *headers]
        try:
            # The transport's own time-out counts from when it has a connection to use; this one counts everything.
            async with asyncio.timeout(self._timeout_s):
                answer = await self._transport(place).request(
                    method, target, headers=headers, body=body, timeout_s=self._timeout_s
                )
        except TimeoutError:
            raise CallError("the core does not answer in time") from None
        except CoreUnavailable as error:
            raise CallError(f"the core is not reached: {error.problem}") from None
        except CoreNonsense as error:
            raise CallError(f"the core's answer cannot be used: {error.problem}", answered=True) from None
        except CoreError as error:
            raise CallError(error.problem) from None
        except ValueError:  # a header or target that would not end where it ends
            raise CallError("the call cannot be written") from None
        return _read(answer)

    def _transport(self, place: tuple[str, str]) -> Transport:
        socket = self._settings.host_socket
        base = "http://localhost" if socket is not None else f"{place[0]}://{place[1]}"
        found = self._transports.get(base)
        if found is None:
            if len(self._transports) >= MAX_ORIGINS:
                raise CallError("the providers' endpoints have too many addresses")
            found = self._transports[base] = self._make(_Origin(base, socket, self._settings.insecure))
        return found

    async def close(self) -> None:
        """Close all connections."""
        transports = list(self._transports.values())
        self._transports.clear()
        for transport in transports:
            await transport.close()


def _read(answer: Response) -> Reply:
    """An answer as an object. Raises ``CallError`` for everything else: pages, redirects, lists, floods, 5xx."""
    if answer.status >= 500 or answer.status == 429:
        raise CallError(f"the core answers {answer.status}")
    if 300 <= answer.status < 400:
        raise CallError(f"the core answers {answer.status}: redirects are not followed", answered=True)
    if len(answer.body) > MAX_ANSWER:
        raise CallError(f"the core's answer has more than {MAX_ANSWER} octets", answered=True)
    if not answer.is_json:
        raise CallError(f"the core answers {answer.status} with something that is not JSON", answered=True)
    try:
        content = msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise CallError("the core's answer is broken JSON", answered=True) from None
    if not isinstance(content, dict):
        raise CallError("the core's answer is no object", answered=True)
    return Reply(answer.status, content)


def provider_agent(name: str) -> tuple[str, str]:
    """The header by which the core's log tells on whose behalf a call was made."""
    plain = "".join(character if character.isascii() and character.isprintable() else "?" for character in name)
    return ("User-Agent", f"{user_agent()} (provider={plain})")
