"""The embedded core answers as the recorded core did: same hops, components, fields, error codes and cookies."""

from __future__ import annotations

import base64
import email.utils
from typing import Any

import pytest

from core import models
from tests.core.cores import Client, Clock, Core, Reply, core
from tests.recorded import JSON, header, names, recording

RECORDED_OUTPOST_TOKEN = "NqpHgI0dR4G7To4P6oBaz3lvDu2FZk3fuEDJbEk0eACLzTRGVatikmWguNUl"
RECORDED_TOKENS = {  # token → the outpost that it belonged to
    RECORDED_OUTPOST_TOKEN: "RC LDAP outpost",
    "V257yOlTd7mdglOcSjE8urFhXmUdqMzibCvfpHmu5EGIAAloiNrxsiB1Xb1a": "RC RADIUS outpost",
    "ZuO5d4Bois2n9nqGLtvgEVz3njowWDyqwYhmraF8vhIFB7g8nwQsUI3is6sF": "RC Proxy outpost",
}

# Need stage types or provider types that the embedded core does not have yet.
NOT_BUILT = {"mfa_webauthn_only"}
FLOWS = sorted(set(names("flows")) - NOT_BUILT)

# Values of these keys differ from installation to installation; that the key is there is compared.
FREE_VALUES = {
    "request_id", "pending_user_avatar", "avatar", "title", "pk", "uid", "string", "error_message", "last_used",
    "system_permissions", "sid", "device_uid", "background", "name", "token",
}  # fmt: skip


def moment(exchange: JSON) -> float:
    """When the recorded core answered, by its Date header."""
    found = dict(exchange["response"]["headers"])["date"]
    return email.utils.parsedate_to_datetime(found).timestamp()


def same(recorded: Any, ours: Any, where: str = "") -> list[str]:
    """Differences of two JSON values, apart from free values and prose."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        found = [f"{where}: no {key}" for key in recorded.keys() - ours.keys()]
        found += [f"{where}: unexpected {key}" for key in ours.keys() - recorded.keys()]
        for key in recorded.keys() & ours.keys():
            if key == "attributes" and isinstance(recorded[key], str) and isinstance(ours[key], str):
                # a RADIUS packet: identifier and authenticator in front are random
                one, other = (base64.b64decode(packet)[20:] for packet in (recorded[key], ours[key]))
                found += [] if one == other else [f"{where}.{key}: {one.hex()} recorded, {other.hex()} here"]
            elif key in FREE_VALUES:
                if type(recorded[key]) is not type(ours[key]) and None not in (recorded[key], ours[key]):
                    found.append(f"{where}.{key}: other type")
            else:
                found += same(recorded[key], ours[key], f"{where}.{key}")
        return found
    if isinstance(recorded, list) and isinstance(ours, list):
        if len(recorded) != len(ours):
            return [f"{where}: {len(recorded)} items recorded, {len(ours)} here"]
        if all(isinstance(item, str) for item in recorded):
            return [] if sorted(recorded) == sorted(ours) else [f"{where}: {recorded} recorded, {ours} here"]
        return [line for a, b in zip(recorded, ours, strict=True) for line in same(a, b, f"{where}[]")]
    return [] if recorded == ours else [f"{where}: {recorded!r} recorded, {ours!r} here"]


def cookies_of(exchange: JSON) -> dict[str, set[str]]:
    """Cookies that the recorded core set, with the names of their attributes."""
    found = {}
    for key, value in exchange["response"]["headers"]:
        if key.lower() == "set-cookie":
            name, _, rest = value.partition("=")
            found[name] = {part.strip().split("=")[0].lower() for part in rest.split(";")[1:]}
    return found


def compare(exchange: JSON, reply: Reply) -> list[str]:
    """Differences of one hop."""
    recorded = exchange["response"]

    if reply.status != recorded["status"]:
        return [f"status {recorded['status']} recorded, {reply.status} here: {reply.body[:300]!r}"]
    differences = []
    if recorded["status"] == 302 and reply.headers["Location"] != dict(recorded["headers"])["location"]:
        differences.append(f"Location {reply.headers['Location']}")
    if recorded.get("json") is not None:
        differences += same(recorded["json"], reply.json)
    theirs, ours = cookies_of(exchange), reply.cookies
    if theirs.keys() != ours.keys():
        differences.append(f"cookies {sorted(theirs)} recorded, {sorted(ours)} here")
    for name in theirs.keys() & ours.keys():
        given = {key.lower() for key in ours[name]}
        if theirs[name] != given:
            differences.append(f"attributes of {name}: {sorted(theirs[name])} recorded, {sorted(given)} here")
    return differences


class Player:
    """Replays requests with our tokens, and with our cookie wherever the recording sent the one it stands for."""

    def __init__(self, running: Core) -> None:
        self.core = running
        self.ours: dict[tuple[str, str], str] = {}

    async def play(self, exchange: JSON) -> tuple[Reply, Client]:
        """Send a recorded request."""
        request, client = exchange["request"], self.core.client()
        headers: dict[str, str] = {}
        for key, value in request["headers"]:
            if key.lower() == "cookie":
                for pair in value.split("; "):
                    name, _, content = pair.partition("=")
                    client.jar[name] = self.ours.get((name, content), content)
            elif key.lower() not in {"host", "content-length", "accept-encoding"}:
                headers[key] = self.core.outpost_token(RECORDED_TOKENS[value]) if value in RECORDED_TOKENS else value
        raw = request.get("body_text")
        reply = await client.request(
            request["method"], request["path"], raw=raw.encode() if raw is not None else None, headers=headers
        )
        for key, value in exchange["response"]["headers"]:
            if key.lower() == "set-cookie":
                name, _, content = value.partition(";")[0].partition("=")
                if name in client.jar:
                    self.ours[name, content] = client.jar[name]
        return reply, client


def reset_device(running: Core, *, drift: bool) -> None:
    """Forget bob's last code, as the recorder did between its tries, and the learned drift where it says so."""
    device = running.database.first(models.TOTPDevice, user=running.user("bob").pk)
    assert device is not None
    device.drift = 0 if drift else device.drift
    device.last_t, device.throttling_failure_count = -1, 0
    running.database.save(device)


# Seconds to add to a hop's whole-second Date where the fraction decides (a back-off of 2 s, seen as exactly 2).
FRACTIONS = {("mfa_totp_throttled", 14): -0.5, ("mfa_totp_throttled", 15): -0.5}


@pytest.mark.parametrize("name", FLOWS)
async def test_flow_recording(name: str) -> None:
    """Every hop of a recorded login is answered the same way."""
    recorded = recording("flows", name)
    exchanges = recorded["exchanges"]
    clock = Clock(moment(exchanges[0]))
    run = -1
    async with core(clock=clock) as running:
        player = Player(running)
        for number, exchange in enumerate(exchanges):
            clock.now = max(clock.now, moment(exchange) + FRACTIONS.get((name, number), 0.0))
            if header(exchange, "cookie") is None:
                run += 1
                if name == "mfa_totp_drift":
                    reset_device(running, drift="NOT reset" not in recorded["outcomes"][run][2])
            reply, client = await player.play(exchange)
            logged_in = running.services.sessions.open(client.jar, "192.0.2.55").authenticated
            if "/check_access/" in exchange["request"]["path"] and not logged_in:
                assert reply.status == 403, "an anonymous session is never answered (flows.md §8.1)"
                continue
            differences = compare(exchange, reply)
            assert not differences, f"hop {number} {exchange['request']['method']}: " + "; ".join(differences)
