"""``outposts/proxy/identity.py``: claims to headers that nobody can misread, and what clients may not send."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.proxy import rfc
from outposts.proxy.identity import (
    DEFAULT_BUDGET,
    MAX_ADDITIONAL,
    Identity,
    IdentityOptions,
    anonymous,
    build,
    claims_of,
    client_may_send,
    folded,
    header_value,
    joined,
)
from tests.proxy.site import CLAIMS

OPTIONS = IdentityOptions("outpost", "provider", "app", "goauthentik.io/outpost/1", "https://ak/jwks/")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
USED = ("sub", "name", "email", "groups", "entitlements", "sid", "exp", "ak_proxy", "preferred_username")


def headers(built: Identity) -> dict[str, str]:
    """The headers by name, as they stand in the block."""
    found = {name.decode(): value.decode() for name, value in built.pairs()}
    assert len(found) == len(built.pairs())
    assert built.names == {folded(name) for name in found}
    return found


def built(options: IdentityOptions = OPTIONS, *, token: str = "t.t.t", **claims: Any) -> dict[str, str]:
    """Headers of a user with these claims."""
    return headers(build(claims_of(CLAIMS | claims), token, options))


def with_attributes(**attributes: Any) -> dict[str, Any]:
    """The claim that carries a user's attributes."""
    return {"ak_proxy": {"user_attributes": attributes}}


def test_all_headers_in_order() -> None:
    """The reference's names and values."""
    assert build(claims_of(CLAIMS), "t.t.t", OPTIONS).block.decode() == (
        "X-Authentik-Username: alice\r\n"
        "X-Authentik-Groups: staff|admins\r\n"
        "X-Authentik-Entitlements: read|write\r\n"
        "X-Authentik-Email: alice@example.com\r\n"
        "X-Authentik-Name: Alice Example\r\n"
        "X-Authentik-Uid: f182d6106e2ad766\r\n"
        "X-Authentik-Jwt: t.t.t\r\n"
        "X-Authentik-Meta-Jwks: https://ak/jwks/\r\n"
        "X-Authentik-Meta-Outpost: outpost\r\n"
        "X-Authentik-Meta-Provider: provider\r\n"
        "X-Authentik-Meta-App: app\r\n"
        "X-Authentik-Meta-Version: goauthentik.io/outpost/1\r\n"
    )


def test_without_a_user_all_headers_are_there() -> None:
    """Empty, but for what is about the provider."""
    found = headers(anonymous(OPTIONS))
    assert list(found) == list(rfc.IDENTITY_HEADERS)
    assert {name for name, value in found.items() if value} == {
        rfc.META_JWKS, rfc.META_OUTPOST, rfc.META_PROVIDER, rfc.META_APP, rfc.META_VERSION
    }  # fmt: skip


def test_no_claims_no_values() -> None:
    """An empty token is no error."""
    found = headers(build(claims_of({}), "", IdentityOptions()))
    assert list(found) == list(rfc.IDENTITY_HEADERS)
    assert set(found.values()) == {""}


@pytest.mark.parametrize(
    "wrong",
    [
        {"groups": "staff"},
        {"groups": 5},
        {"groups": {"a": 1}},
        {"preferred_username": 7},
        {"exp": "soon"},
        {"exp": True},
        {"ak_proxy": []},
        {"ak_proxy": {"user_attributes": "x", "is_superuser": "yes", "backend_override": 3}},
        {"sid": None},
    ],
)
def test_w42_claims_of_a_wrong_type_count_as_absent(wrong: dict[str, Any]) -> None:
    """One bad mapping locks nobody out."""
    claims = claims_of(CLAIMS | wrong)
    assert claims.superuser is False
    assert claims.email == "alice@example.com"
    if "groups" in wrong:
        assert claims.groups == ()
    if "exp" in wrong:
        assert claims.expires is None


def test_lists_keep_what_is_text() -> None:
    """Other members of a list are passed over."""
    assert claims_of({"groups": ["a", 1, None, "", "b"]}).groups == ("a", "b")


def test_w32_a_separator_in_a_name_is_escaped() -> None:
    """One group never becomes two."""
    assert joined(["a|admins", "b"]) == "a%7Cadmins|b"
    assert built(groups=["a|admins"])[rfc.GROUPS] == "a%7Cadmins"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Alice\nX-Authentik-Groups: admins", "AliceX-Authentik-Groups: admins"),
        ("A\r\nB\x00C\x7fD\u0085E\u2028F", "ABCDEF"),
        (" \t A \t", "A"),
        ("Łucja Ünïcode 猫", "Łucja Ünïcode 猫"),
        ("\ud800x", "x"),
    ],
)
def test_p09_control_characters_are_dropped(name: str, value: str) -> None:
    """No value can end a header."""
    assert built(name=name)[rfc.NAME] == value


def test_p10_additional_headers() -> None:
    """Scalars become text; what is no object or no scalar is left out."""
    found = built(**with_attributes(additionalHeaders={"X-N": 5, "X-B": True, "X-F": 1.5, "X-0": None, "X-T": "t"}))
    assert {name: found[name] for name in ("X-N", "X-B", "X-F", "X-0", "X-T")} == {
        "X-N": "5", "X-B": "true", "X-F": "1.5", "X-0": "", "X-T": "t"
    }  # fmt: skip
    for wrong in (["x"], "x", 5):
        identity = build(claims_of(with_attributes(additionalHeaders=wrong)), "", OPTIONS)
        assert list(headers(identity)) == list(rfc.IDENTITY_HEADERS)
        assert identity.dropped == ("additionalHeaders",)
    identity = build(claims_of(with_attributes(additionalHeaders={"X-L": [1], "X-O": {}, "X-T": "t"})), "", OPTIONS)
    assert headers(identity)["X-T"] == "t"
    assert identity.dropped == ("X-L", "X-O")


@pytest.mark.parametrize(
    "name",
    [
        "X-authentik-username",
        "x_authentik_groups",
        "X-Authentik-Anything",
        "X.Authentik.Jwt",
        "Host",
        "Content-Length",
        "content_length",
        "Transfer-Encoding",
        "Connection",
        "Set-Cookie",
        "X-Forwarded-For",
        "X-Original-URL",
        "Bad Name",
        "",
        "X:Y",
        "X\r\nY",
        "Ünï",
    ],
)
def test_p11_additional_headers_that_are_refused(name: str) -> None:
    """The rest works."""
    identity = build(claims_of(CLAIMS | with_attributes(additionalHeaders={name: "root", "X-Ok": "1"})), "", OPTIONS)
    found = headers(identity)
    assert found["X-Ok"] == "1"
    assert found[rfc.USERNAME] == "alice"
    assert "root" not in identity.block.decode()
    assert len(identity.dropped) == 1
    assert identity.dropped[0].isprintable()


def test_additional_headers_are_counted_and_named_once() -> None:
    """The last spelling of a name counts, and there is an end to them."""
    wanted = {"X-A": "1", "x-a": "2"} | {f"X-{number}": "x" for number in range(MAX_ADDITIONAL + 5)}
    identity = build(claims_of(with_attributes(additionalHeaders=wanted)), "", OPTIONS)
    found = headers(identity)
    assert found["x-a"] == "2"
    assert "X-A" not in found
    assert len(found) == len(rfc.IDENTITY_HEADERS) + MAX_ADDITIONAL


BASIC = IdentityOptions(basic_auth=True, basic_user_attribute="app_user", basic_password_attribute="app_password")


def test_p12_basic_injection() -> None:
    """User name from the attribute or the e-mail address; without a password nothing."""
    both = built(BASIC, **with_attributes(app_user="svc", app_password="hunter2"))
    assert both["Authorization"] == "Basic c3ZjOmh1bnRlcjI="
    mail = built(BASIC, **with_attributes(app_password="hunter2"))
    assert mail["Authorization"] == "Basic YWxpY2VAZXhhbXBsZS5jb206aHVudGVyMg=="
    for without in ({}, {"app_password": ""}, {"app_password": 5}):
        assert "Authorization" not in built(BASIC, **with_attributes(app_user="svc", **without))
    assert "Authorization" not in built(OPTIONS, **with_attributes(app_password="hunter2"))
    assert "Authorization" not in headers(build(claims_of({"email": "a@b"}), "", BASIC))


def test_p12_basic_injection_wins() -> None:
    """Over an additional header of the same name; its value is one line."""
    attributes = {"app_password": "pä\r\nX: y", "additionalHeaders": {"authorization": "Bearer x"}}
    found = built(BASIC, **with_attributes(**attributes))
    assert "authorization" not in found
    assert base64.b64decode(found["Authorization"].removeprefix("Basic ")).decode() == "alice@example.com:pä\r\nX: y"


def test_w47_the_token_is_optional() -> None:
    """Off, the header is there and empty."""
    assert built(IdentityOptions(send_jwt=False))[rfc.JWT] == ""


def test_budget() -> None:
    """First the token goes, then what was added, then what takes rights away; a name always stays."""
    token, more = "t" * 900, {"X-More": "m" * 900}
    claims = claims_of(CLAIMS | with_attributes(additionalHeaders=more) | {"groups": ["g" * 900]})

    def left(budget: int) -> tuple[int, tuple[str, ...]]:
        identity = build(claims, token, IdentityOptions(budget=budget))
        assert set(rfc.IDENTITY_HEADERS) <= headers(identity).keys()
        assert headers(identity)[rfc.USERNAME] == "alice"
        return len(identity.block), identity.dropped

    assert left(DEFAULT_BUDGET) == (left(10_000)[0], ())
    for budget, dropped in ((3000, ("X-Authentik-Jwt",)), (2000, ("X-Authentik-Jwt", "X-More"))):
        size, names = left(budget)
        assert size <= budget
        assert names == dropped
    assert "X-Authentik-Groups" in left(1000)[1]


@given(
    payload=st.fixed_dictionaries({}, optional=dict.fromkeys(USED, JSON)),
    added=st.dictionaries(st.text(), JSON, max_size=5),
    token=st.text(),
    budget=st.integers(1024, 30_000),
)
def test_any_claims_make_sound_headers(payload: dict[str, Any], added: dict[str, Any], token: str, budget: int) -> None:
    """Whatever a token says: all identity headers once, no line that was not meant, no header that steers."""
    if isinstance(payload.get("ak_proxy"), dict):
        payload["ak_proxy"]["user_attributes"] = {"additionalHeaders": added}
    identity = build(claims_of(payload), token, IdentityOptions(budget=budget))
    lines = identity.block.decode().split("\r\n")
    assert lines.pop() == ""
    names = [line.partition(":")[0].lower() for line in lines]
    assert len(names) == len(set(names))
    assert [name.lower() for name in rfc.IDENTITY_HEADERS] == names[: len(rfc.IDENTITY_HEADERS)]
    assert all(line.replace("\t", " ").isprintable() or not line.isascii() for line in lines)
    assert not any(character < " " or character == "\x7f" for line in lines for character in line)
    for name in names[len(rfc.IDENTITY_HEADERS) :]:
        assert not folded(name).startswith("x-authentik-")
        assert folded(name) not in rfc.HOP_BY_HOP | rfc.FRAMING | rfc.FORWARDING


@given(st.text())
def test_values_are_one_line(text: str) -> None:
    """No octet of a value ends a header or is trimmed by its reader."""
    value = header_value(text)
    assert not any(octet < 32 or octet == 127 for octet in value)
    assert value == value.strip(b" \t")


@pytest.mark.parametrize(
    "name",
    ["X-Authentik-Username", "x_authentik_username", "X-authentik_jwt", "X.AUTHENTIK.Groups", "x-authentik-new",
     "X-Authentik-", "X--Authentik-Username".replace("--", "-")],
)  # fmt: skip
def test_p03_clients_may_not_send_identity(name: str) -> None:
    """In any spelling that some server takes for it."""
    assert not client_may_send(name)


def test_other_names_pass_unless_they_are_set() -> None:
    """Underscores alone are no reason; a header that we set, or that the operator names, is one."""
    for name in ("X-Authentication", "Foo_1", "X-Remote-User", "Authorization", "X-Authentik", "My-X-Authentik-Name"):
        assert client_may_send(name)
    assert not client_may_send("x_remote.user", frozenset({"x-remote-user"}))
