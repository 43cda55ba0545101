"""API answers have the recorded shapes: every recorded field is there with the same kind of value."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from common import records
from tests.core.cores import Client, Core, core
from tests.core.test_recordings import RECORDED_TOKENS
from tests.recorded import JSON, header, recording

RECORDINGS = (
    "check_access_app_of_other_provider", "check_access_outpost_token", "core_groups_filters", "core_groups_pages",
    "core_users_filters", "core_users_include", "core_users_me_outpost_token", "core_users_pages", "events_create",
    "outposts_instances", "outposts_ldap", "outposts_proxy", "outposts_radius", "root_config",
)  # fmt: skip
# Free-form objects: their keys belong to whoever wrote them. The OpenID configuration has a test of its own.
FREE = {
    "attributes", "config", "context", "settings", "autocomplete", "user", "brand", "capabilities",
    "oidc_configuration",
}  # fmt: skip


def kind(value: Any) -> str:
    """Kind of a JSON value; integers and floats are one kind."""
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def shape(recorded: Any, ours: Any, where: str = "") -> list[str]:
    """Fields of the recording that are missing here or of another kind. ``null`` on either side fits everything."""
    if recorded is None or ours is None:
        return []
    if kind(recorded) != kind(ours):
        return [f"{where}: {kind(recorded)} recorded, {kind(ours)} here"]
    if isinstance(recorded, dict):
        found = [f"{where}: no {key}" for key in recorded.keys() - ours.keys()]
        for key in recorded.keys() & ours.keys():
            if key not in FREE or (where == "" and key == "user"):
                found += shape(recorded[key], ours[key], f"{where}.{key}")
        return found
    if isinstance(recorded, list) and recorded and ours:
        return [line for item in ours for line in shape(recorded[0], item, f"{where}[]")]
    return []


def bearers(exchanges: list[JSON]) -> set[str]:
    """All tokens that a recording sends."""
    return {(header(exchange, "authorization") or "").partition(" ")[2] for exchange in exchanges} - {""}


def client_for(running: Core, exchange: JSON, tokens: dict[str, str]) -> Client:
    """A client with the token that stands for the recorded one."""
    authorization = header(exchange, "authorization")
    if authorization is None:
        return running.client()
    key = authorization.partition(" ")[2]
    return running.bearer(tokens.get(key, key))


@pytest.mark.parametrize("name", RECORDINGS)
async def test_api_recording(name: str) -> None:
    """Status and shape of each recorded answer."""
    async with core() as running:
        tokens = {key: running.outpost_token(name) for key, name in RECORDED_TOKENS.items()}
        if name == "events_create":
            # reported by a proxy outpost; every outpost may
            tokens |= {key: running.outpost_token() for key in bearers(recording("api", name)["exchanges"])}
        tested = 0
        for number, exchange in enumerate(recording("api", name)["exchanges"]):
            request, recorded = exchange["request"], exchange["response"]
            key = (header(exchange, "authorization") or "").partition(" ")[2]
            # tokens of outposts and people that this set-up does not have
            if key and key not in tokens and recorded["status"] < 400 and key != "alice-api-token-key-1":
                continue
            client = client_for(running, exchange, tokens)
            raw = request.get("body_text")
            headers = {"Content-Type": "application/json"} if raw else {}
            reply = await client.request(
                request["method"], request["path"], raw=raw.encode() if raw else None, headers=headers
            )
            tested += 1
            where = f"{number} {request['method']} {request['path']}"
            if "/check_access/" in request["path"] and not key:
                assert reply.status == 403, where
                continue
            if recorded["status"] == 500:
                assert reply.status == 400, where  # app_slug missing: a 500 page in the recording
                continue
            assert reply.status == recorded["status"], f"{where}: {reply.status} {reply.body[:200]!r}"
            if recorded["status"] >= 400:
                assert reply.json == recorded["json"], where
            else:
                assert not shape(recorded["json"], reply.json), f"{where}: {shape(recorded['json'], reply.json)}"
        assert tested, "nothing of the recording was replayed"


async def test_counts_of_filters_match_the_recording() -> None:
    """The filters that direct searches send find as many objects as they found in the recorded core."""
    async with core() as running:
        client = running.bearer(running.outpost_token())
        for name in ("core_users_filters", "core_groups_filters"):
            for exchange in recording("api", name)["exchanges"]:
                request, recorded = exchange["request"], exchange["response"]
                if recorded["status"] != 200 or "members_by_pk" in request["path"]:
                    continue
                reply = await client.request("GET", request["path"])
                assert reply.json["pagination"]["count"] == recorded["json"]["pagination"]["count"], exchange["note"]


async def test_lists_decode_with_our_records() -> None:
    """What outposts read decodes with the records that they use."""
    async with core() as running:
        client = running.bearer(running.outpost_token())
        for path, record in (
            ("/outposts/instances/", records.OutpostRecord),
            ("/outposts/ldap/", records.LDAPProvider),
            ("/core/users/", records.User),
            ("/core/groups/?include_children=true&include_parents=true", records.Group),
        ):
            reply = await client.get(path)
            page = msgspec.json.decode(reply.body, type=records.Page[record])  # type: ignore[valid-type]
            assert page.results, path
