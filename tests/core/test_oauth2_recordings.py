"""The OAuth2 provider answers as the recorded core did: same hops, same claims, same errors.

Every difference needs a row in ``DIFFERENT`` with its reason.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

import pytest

from core import models
from tests.core.cores import Clock, Core, Reply, core
from tests.core.oauth2_clients import claims_of, decoded
from tests.core.test_recordings import moment
from tests.recorded import JSON, names, recording

OIDC = names("oidc")
SKIPPED = {"content-length", "accept-encoding"}
COOKIES = {name: re.compile(rf"{name}=([^;]+)") for name in ("authentik_session", "authentik_csrf", "authentik_device")}
CODE = re.compile(r"code=([0-9a-f]{32,64})")

# Values that differ from installation to installation or from run to run.
FREE = {
    "sub", "sid", "jti", "uid", "exp", "iat", "auth_time", "request_id", "error_description", "access_token",
    "id_token", "token", "pending_user_avatar", "background",
}  # fmt: skip
# Differences that are meant: key → why.
DIFFERENT = {
    "device_authorization_endpoint": "no device flow",
    "backchannel_logout_supported": "clients are not told of ended sessions",
    "backchannel_logout_session_supported": "clients are not told of ended sessions",
    "frontchannel_logout_supported": "no frames in pages",
    "frontchannel_logout_session_supported": "no frames in pages",
    "response_types_supported": "no implicit and hybrid flows (RFC 9700 §2.1.2)",
    "grant_types_supported": "no implicit and device flows",
    "request_uri_parameter_supported": "said, since it would count as supported otherwise (Discovery 1.0 §3)",
}


def differences(recorded: Any, ours: Any, where: str = "") -> list[str]:
    """Where two JSON values differ, apart from free values and differences that are meant; lists as sets."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        keys = (recorded.keys() | ours.keys()) - DIFFERENT.keys()
        found = [f"{where}: {key} is only in one" for key in keys if (key in recorded) is not (key in ours)]
        for key in (keys & recorded.keys() & ours.keys()) - FREE:
            found += differences(recorded[key], ours[key], f"{where}.{key}")
        return found
    if isinstance(recorded, list) and isinstance(ours, list):
        key = lambda item: str(item)  # noqa: E731
        if len(recorded) != len(ours):
            return [f"{where}: {recorded} recorded, {ours} here"]
        pairs = zip(sorted(recorded, key=key), sorted(ours, key=key), strict=True)
        return [line for one, other in pairs for line in differences(one, other, f"{where}[]")]
    if isinstance(recorded, str) and isinstance(ours, str) and where == ".scope":
        recorded, ours = sorted(recorded.split()), sorted(ours.split())
    return [] if recorded == ours else [f"{where}: {recorded!r} recorded, {ours!r} here"]


class Player:
    """Replays requests, with what we gave (cookies, codes, tokens) in the place of what the recorded core gave."""

    def __init__(self, running: Core, username: str) -> None:
        self.core = running
        self.username = username
        self.given: dict[str, str] = {}

    async def play(self, exchange: JSON) -> Reply:
        """Send a recorded request."""
        request = exchange["request"]
        headers = {name: value for name, value in request["headers"] if name.lower() not in SKIPPED}
        await self._log_in(headers.get("Cookie", ""))
        text = request.get("body_text")
        for theirs, ours in self.given.items():
            text = text.replace(theirs, ours) if text else text
            headers = {name: value.replace(theirs, ours) for name, value in headers.items()}
        reply = await self.core.client().request(request["method"], request["path"], raw=text, headers=headers)
        self._remember(exchange["response"], reply)
        return reply

    async def _log_in(self, cookies: str) -> None:
        """The recordings begin with somebody who is logged in: our session takes the place of the recorded one."""
        session = COOKIES["authentik_session"].search(cookies)
        if session is None or session[1] in self.given or not decoded(session[1].split(".")[1])["authenticated"]:
            return
        client = self.core.client()
        await client.login(self.username, f"{self.username}-pw-1")
        for name, pattern in COOKIES.items():
            found = pattern.search(cookies)
            if found is not None:
                self.given[found[1]] = client.jar[name]

    def _remember(self, recorded: JSON, reply: Reply) -> None:
        theirs, ours = recorded.get("json"), reply.json
        if isinstance(theirs, dict) and isinstance(ours, dict):
            for name in ("access_token", "id_token", "token"):
                if name in theirs and name in ours:
                    self.given[theirs[name]] = ours[name]
            self._remember_code(str(theirs.get("to")), str(ours.get("to")))
        self._remember_code(dict(recorded["headers"]).get("location", ""), reply.headers.get("Location", ""))

    def _remember_code(self, recorded: str, ours: str) -> None:
        code, mine = CODE.search(recorded), CODE.search(ours)
        if code is not None and mine is not None:
            self.given[code[1]] = mine[1]


def without_code(url: str) -> str:
    """An address without the code's value."""
    return CODE.sub("code=X", url)


def without_codes(data: Any) -> Any:
    """A challenge without the code's value in its address."""
    if isinstance(data, dict) and isinstance(data.get("to"), str):
        return data | {"to": without_code(data["to"])}
    return data


@pytest.mark.parametrize("name", OIDC)
async def test_oidc_recording(name: str) -> None:
    """Every hop of a recorded exchange is answered the same way."""
    recorded = recording("oidc", name)
    clock = Clock(moment(recorded["exchanges"][0]))
    async with core(clock=clock) as running:
        player = Player(running, "carol" if "carol" in recorded["description"] else "alice")
        for number, exchange in enumerate(recorded["exchanges"]):
            clock.now = max(clock.now, moment(exchange))
            reply = await player.play(exchange)
            theirs = exchange["response"]
            where = f"hop {number} {exchange['request']['method']} {exchange['request']['path'][:60]}"
            assert reply.status == theirs["status"], f"{where}: {reply.status} {reply.body[:300]!r}"
            location = dict(theirs["headers"]).get("location")
            if location is not None:
                assert without_code(reply.headers["Location"]) == without_code(location), where
            if theirs.get("json") is None:
                kind = reply.headers.get("Content-Type", "").partition(";")[0]
                assert kind == dict(theirs["headers"])["content-type"].partition(";")[0], where
                continue
            problems = differences(without_codes(theirs["json"]), without_codes(reply.json))
            assert not problems, f"{where}: {problems}"
            for token in {"access_token", "id_token"} & theirs["json"].keys():
                same_token(theirs["json"][token], reply.json[token], secret_of(running, exchange), f"{where} {token}")


def secret_of(running: Core, exchange: JSON) -> str:
    """The secret of the client that asked."""
    client_id = dict(parse_qsl(exchange["request"]["body_text"]))["client_id"]
    found = running.database.first(models.Provider, options__client_id=client_id)
    assert found is not None
    return str(found.options["client_secret"])


def same_token(recorded: str, ours: str, secret: str, where: str) -> None:
    """A token holds the same claims as the recorded one, and lives as long."""
    theirs, mine = decoded(recorded.split(".")[1]), claims_of(ours, secret)
    assert not differences(theirs, mine), f"{where}: {differences(theirs, mine)}"
    assert theirs["exp"] - theirs["iat"] == mine["exp"] - mine["iat"], where


def test_recordings_are_there() -> None:
    """Codes of three modes, refusals, app passwords, discovery."""
    assert len(OIDC) == 8
