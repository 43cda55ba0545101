"""Client of Duo's Auth API: signed requests, enrolment, and a push whose answer is waited for.

A request is signed with HMAC-SHA-512 over date, method, host, path and sorted parameters, and carries key and signature
as HTTP Basic credentials. A push is asked for asynchronously (``async=1``): its transaction is then asked for until Duo
says allow or deny, each question being held by Duo for some seconds. https://duo.com/docs/authapi
"""

from __future__ import annotations

import asyncio
import email.utils
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

REQUEST_TIMEOUT_S = 30.0  # Duo holds a question for the status of a push for some seconds
PUSH_TIMEOUT_S = 60.0  # Duo ends a push that nobody answers after a minute
MIN_PAUSE_S = 0.5  # between two questions, should Duo answer "waiting" at once
MAX_QUESTIONS = 120  # PUSH_TIMEOUT_S at the shortest pause
ENROLLMENT_VALID_S = 3600

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?")


class DuoFailed(Exception):
    """Duo cannot be asked, or does not answer as documented. The text holds no key and no user."""


@dataclass(frozen=True)
class DuoKeys:
    """An application at Duo: host, integration key and secret key."""

    host: str
    client_id: str
    client_secret: str = field(repr=False)


@dataclass(frozen=True)
class Enrollment:
    """A user who was made at Duo and whose phone is not there yet. ``barcode`` is the address of a picture."""

    user_id: str
    activation_code: str = field(repr=False)
    barcode: str = field(repr=False)


def canonical(date: str, method: str, host: str, path: str, parameters: Mapping[str, str]) -> str:
    """What is signed: five lines, parameters sorted and percent-encoded (RFC 3986)."""
    return "\n".join([date, method.upper(), host.lower(), path, encoded(parameters)])


def encoded(parameters: Mapping[str, str]) -> str:
    """Parameters in the one form that both ends sign."""
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in parameters.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign(secret: str, text: str) -> str:
    """The signature in hex."""
    return hmac.digest(secret.encode(), text.encode(), "sha512").hex()


class DuoClient:
    """Asks Duo. ``now`` gives Unix seconds; ``http`` is shared and not closed here."""

    def __init__(self, http: httpx.AsyncClient, keys: DuoKeys, now: Callable[[], float]) -> None:
        if not _HOST.fullmatch(keys.host):
            raise DuoFailed("the API host name is none")
        self._http = http
        self._keys = keys
        self._now = now

    async def enroll(self, username: str) -> Enrollment:
        """Make a user at Duo, to be activated with a phone.

        :raises DuoFailed: Duo did not.
        """
        answer = await self._call(
            "POST", "/auth/v2/enroll", {"username": username, "valid_secs": str(ENROLLMENT_VALID_S)}
        )
        return Enrollment(
            _text(answer, "user_id"), _text(answer, "activation_code"), _text(answer, "activation_barcode")
        )

    async def enroll_status(self, user_id: str, activation_code: str) -> str:
        """``success``, ``waiting`` or ``invalid``.

        :raises DuoFailed: Duo did not say.
        """
        found = await self._call(
            "POST", "/auth/v2/enroll_status", {"user_id": user_id, "activation_code": activation_code}
        )
        if found not in ("success", "waiting", "invalid"):
            raise DuoFailed("an unknown state of an enrolment")
        return str(found)

    async def push(self, user_id: str, *, client_ip: str, username: str, kind: str, about: Mapping[str, str]) -> bool:
        """Ask the person on the phone; waits for the answer. ``kind`` and ``about`` are shown there.

        True only if Duo says ``allow``.

        :raises DuoFailed: Duo did not say in time.
        """
        answer = await self._call(
            "POST",
            "/auth/v2/auth",
            {
                "user_id": user_id,
                "factor": "auto",
                "device": "auto",
                "async": "1",
                "ipaddr": client_ip,
                "type": kind,
                "display_username": username,
                "pushinfo": encoded(about),
            },
        )
        transaction = _text(answer, "txid")
        try:
            async with asyncio.timeout(PUSH_TIMEOUT_S):
                for _ in range(MAX_QUESTIONS):
                    status = await self._call("GET", "/auth/v2/auth_status", {"txid": transaction})
                    result = _text(status, "result")
                    if result == "allow":
                        return True
                    if result != "waiting":
                        return False
                    await asyncio.sleep(MIN_PAUSE_S)
        except TimeoutError:
            pass
        raise DuoFailed("nobody answered the push in time")

    async def _call(self, method: str, path: str, parameters: Mapping[str, str]) -> Any:
        keys = self._keys
        date = email.utils.formatdate(self._now())
        signature = sign(keys.client_secret, canonical(date, method, keys.host, path, parameters))
        target = f"https://{keys.host}{path}"
        content = encoded(parameters)
        headers = {"Date": date}
        if method == "GET":
            target += f"?{content}"
        else:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            answer = await self._http.request(
                method,
                target,
                content=None if method == "GET" else content.encode(),
                headers=headers,
                auth=(keys.client_id, signature),
                timeout=REQUEST_TIMEOUT_S,
            )
            body = msgspec.json.decode(answer.content)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise DuoFailed(f"Duo cannot be asked: {type(error).__name__}") from None
        if answer.status_code != 200 or not isinstance(body, dict) or body.get("stat") != "OK":
            code = body.get("code") if isinstance(body, dict) else None
            raise DuoFailed(f"Duo refused: status {answer.status_code}, code {code if isinstance(code, int) else '?'}")
        return body.get("response")


def _text(answer: Any, name: str) -> str:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, str) or not value:
        raise DuoFailed(f"the answer has no {name}")
    return value
