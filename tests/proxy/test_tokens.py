"""``outposts/proxy/tokens.py``: tokens of a recorded core count; damaged ones never do, whatever was damaged."""

from __future__ import annotations

import base64
import json
import random
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest

from outposts.proxy.endpoints import SIGNING
from outposts.proxy.identity import claims_of
from outposts.proxy.tokens import KINDS, MAX_TOKEN, Expected, Key, TokenError, header_of, is_symmetric, keys_of, verify
from tests.proxy.openid import SECRET, jwk, private, unsigned
from tests.recorded import recording

NOW = 1_800_000_000.0
EXPECTED = Expected("cid", ("https://id/",), frozenset({"HS256", "RS256", "ES256"}), nonce="n")
CLAIMS = {"iss": "https://id/", "sub": "alice", "aud": "cid", "exp": NOW + 60, "iat": NOW, "nonce": "n"}
KEYS = keys_of({"keys": [jwk("RS256", "r"), jwk("ES256", "e")]}, 10)


def signed(algorithm: str, claims: Any = CLAIMS, **header: Any) -> str:
    """A token that counts."""
    key = SECRET if algorithm == "HS256" else private(algorithm)
    return jwt.PyJWS().encode(json.dumps(claims).encode(), key, algorithm, headers=header)


GOOD = [signed("HS256"), signed("RS256", kid="r"), signed("ES256", kid="e"), signed("ES256")]


@pytest.mark.parametrize("name", ["code_flow_forward_single", "code_flow_proxy_full"])
def test_tokens_of_a_recorded_core(name: str) -> None:
    """A 2026.5 core's ID and access token, by its client secret; not with a minute too much, nor for others."""
    found = recording("oidc", name)
    [answer, *_] = [e for e in found["exchanges"] if "access_token" in (e["response"].get("json") or {})]
    form = {key: values[0] for key, values in parse_qs(answer["request"]["body_text"]).items()}
    issuer = found["id_token_claims"]["iss"]
    for member in ("id_token", "access_token"):
        token = answer["response"]["json"][member]
        expected = Expected(form["client_id"], (issuer,), frozenset({"HS256"}))
        now = found["id_token_claims"]["iat"] + 1
        payload = verify(token, expected, form["client_secret"], (), now)
        assert payload == found[f"{member}_claims"]
        claims = claims_of(payload)
        assert claims.username == "alice" and claims.proxy and claims.sid == found["sha256_of_session_sid"]
        for other, secret, moment in (
            (expected, form["client_secret"], payload["exp"]),
            (expected, form["client_secret"][:-1], now),
            (Expected("another", (issuer,), frozenset({"HS256"})), form["client_secret"], now),
            (Expected(form["client_id"], ("http://other/",), frozenset({"HS256"})), form["client_secret"], now),
            (Expected(form["client_id"], (issuer,), frozenset({"RS256"})), form["client_secret"], now),
        ):
            with pytest.raises(TokenError):
                verify(token, other, secret, (), moment)


@pytest.mark.parametrize("token", GOOD)
def test_every_octet_counts(token: str) -> None:
    """One character changed, dropped, doubled, or the end cut off: no claims, and no other error than the one."""
    assert verify(token, EXPECTED, SECRET, KEYS, NOW)["sub"] == "alice"
    draw = random.Random(7)
    for _ in range(400):
        at = draw.randrange(len(token))
        other = draw.choice("ABCxyz019-_.=+/ \n\0é")
        kind = draw.randrange(4)
        damaged = (
            token[:at] + other + token[at + 1 :],
            token[:at] + token[at + 1 :],
            token[:at] + token[at] + token[at:],
            token[:at],
        )[kind]
        if damaged == token or same(damaged, token):
            continue
        with pytest.raises(TokenError):
            verify(damaged, EXPECTED, SECRET, KEYS, NOW)


def same(one: str, other: str) -> bool:
    """Whether only spare bits of the signature's last character differ: it is the same signature."""
    if one.rpartition(".")[0] != other.rpartition(".")[0]:
        return False
    try:
        decoded = [base64.urlsafe_b64decode(text.rpartition(".")[2] + "==") for text in (one, other)]
    except ValueError:
        return False
    return decoded[0] == decoded[1]


def test_noise() -> None:
    """Anything at all: the one error."""
    draw = random.Random(8)
    for _ in range(2_000):
        header: Any = draw.choice(
            [None, [], "x", 7, {}, {"alg": draw.choice([*SIGNING, None, 1, [], {}, "none", "x"])}]
        )
        if isinstance(header, dict) and draw.random() < 0.5:
            header[draw.choice(["kid", "b64", "crit", "jwk", "zip", "typ"])] = draw.choice(
                [None, "r", 7, [], False, ["b64"]]
            )
        payload: Any = draw.choice([CLAIMS, None, [], "x", {**CLAIMS, "exp": draw.choice([None, "1", [], -1, 1e400])}])
        token = unsigned(header, payload, draw.randbytes(draw.choice([0, 32, 64, 256])))
        if draw.random() < 0.3:
            token = draw.choice(["", ".", "..", "...", "a.b", token + ".x", token.replace(".", ""), "é" + token])
        with pytest.raises(TokenError):
            verify(token, EXPECTED, SECRET, KEYS, NOW)


def test_sizes() -> None:
    """Too long is refused before it is looked at."""
    for reader in (header_of, is_symmetric):
        with pytest.raises(TokenError):
            reader("a" * (MAX_TOKEN + 1))
    assert len(keys_of({"keys": [jwk("RS256", str(number)) for number in range(50)]}, 32)) == 32


def test_kinds_of_keys() -> None:
    """Every algorithm has one kind of key, and a key of another kind is never tried."""
    assert KINDS.keys() == SIGNING
    wrong = [Key("P-256", "r", "", private("ES256").public_key()), Key("oct", "r", "RS256", b"x")]
    with pytest.raises(TokenError):
        verify(GOOD[1], EXPECTED, SECRET, wrong, NOW)
    assert [key.kind for key in KEYS] == ["RSA", "P-256"]
