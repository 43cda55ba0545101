"""Signed claims: what is read is what was written with the same key, and nothing else; checked against PyJWT."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest

from core import signed
from core.random_text import random_text

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
CLAIMS = {"sid": "abc", "iss": "authentik", "authenticated": True, "exp": 1.5, "name": "ü"}


def part(data: Any) -> str:
    """One part of a token."""
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def test_the_library_agrees_both_ways() -> None:
    """PyJWT reads ours, and we read PyJWT's."""
    options: Any = {"verify_exp": False}
    assert jwt.decode(signed.write(CLAIMS, KEY), KEY, algorithms=["HS256"], options=options) == CLAIMS
    assert signed.read(jwt.encode(CLAIMS, KEY, algorithm="HS256"), KEY) == CLAIMS


GOOD = signed.write(CLAIMS, KEY)
HEAD, BODY, SIGNATURE = GOOD.split(".")


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "a.b.c", GOOD[:-1], GOOD + "A", f"{HEAD}.{BODY}.", f"{HEAD}.{BODY}", f"{BODY}.{SIGNATURE}",
        f"{HEAD}.{part({'sid': 'other'})}.{SIGNATURE}", f"{part({'alg': 'none', 'typ': 'JWT'})}.{BODY}.",
        f"{part({'alg': 'none'})}.{BODY}.{SIGNATURE}", signed.write(CLAIMS, OTHER), GOOD.replace(".", "ü"), "x" * 5000,
        jwt.encode(CLAIMS, KEY * 2, algorithm="HS512"),
        jwt.encode(CLAIMS, KEY, algorithm="HS256", headers={"kid": "1"}),
    ],
)  # fmt: skip
def test_everything_else_is_none(text: str) -> None:
    """Cut, changed, unsigned, other key, other algorithm, other header."""
    assert signed.read(text, KEY) is None


def test_claims_must_be_an_object() -> None:
    """A signed list or text is nothing that we wrote."""
    for content in ("[]", "1", "nonsense", ""):
        body = base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()
        token = jwt.api_jws.encode(content.encode(), KEY, algorithm="HS256")
        assert token.split(".")[1] == body
        assert signed.read(token, KEY) is None


def test_random_text() -> None:
    """The right length, only from the alphabet, every letter about as often."""
    assert len({random_text("abc", 40) for _ in range(50)}) == 50
    assert random_text("x", 7) == "x" * 7
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    text = random_text(alphabet, 36_000)
    assert len(text) == 36_000 and set(text) == set(alphabet)
    assert all(800 < text.count(letter) < 1200 for letter in alphabet)
