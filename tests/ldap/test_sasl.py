"""SASL messages and identities, without a connection."""

from __future__ import annotations

import pytest

from outposts.ldap import sasl
from outposts.ldap.dn import DN
from outposts.ldap.sasl import Plain, mechanisms, name_of, parse_plain, same_identity

DN_ALICE = "cn=alice,ou=users,dc=x"


def test_rfc_4616_examples() -> None:
    """§4: Tim without, Ursel with an authorization identity."""
    assert parse_plain(b"\0tim\0tanstaaftanstaaf") == Plain("", "tim", b"tanstaaftanstaaf")
    assert parse_plain(b"Ursel\0Kurt\0xipj3plmq") == Plain("Ursel", "Kurt", b"xipj3plmq")


@pytest.mark.parametrize(
    "credentials",
    [
        None,
        b"",
        b"\0",
        b"\0\0",
        b"alice",
        b"alice\0pw",
        b"\0alice\0",
        b"\0\0pw",
        b"\0alice\0p\0w",
        b"\0alice\0pw\0",
        b"\xff\0alice\0pw",
        b"\0\xff\0pw",
    ],
)
def test_what_is_no_plain_message(credentials: bytes | None) -> None:
    """§2: two NULs, names in UTF-8, neither name nor password empty."""
    assert parse_plain(credentials) is None


def test_a_password_does_not_show() -> None:
    """In the representation."""
    assert "geheim" not in repr(parse_plain(b"\0alice\0geheim"))


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (f"dn:{DN_ALICE}", DN_ALICE.encode()),
        ("u:alice", b"alice"),
        ("alice", None),
        ("u:", None),
        ("dn:", None),
        ("x:alice", None),
        ("U:alice", b"alice"),
        ("", None),
    ],
)
def test_authorization_identities(identity: str, name: bytes | None) -> None:
    """RFC 4513 §5.2.1.8: ``dn:`` or ``u:``."""
    assert name_of(identity) == name


PROVED = ("al@x.io", b"\0al@x.io")


@pytest.mark.parametrize(
    ("wanted", "proved", "same"),
    [
        ("", None, True),
        ("u:alice", None, True),
        ("u:Alice", None, False),
        ("u:bob", None, False),
        ("u:al@x.io", None, False),
        ("u:al@x.io", PROVED, True),
        ("u:bob", PROVED, False),
        (f"dn:{DN_ALICE}", None, True),
        ("dn:CN=Alice, OU=users, DC=X", None, True),
        ("dn:cn=bob,ou=users,dc=x", None, False),
        ("dn:cn=alice,dc=x", None, False),
        ("dn:cn=alice,dc=x", ("alice", DN.parse("cn=alice,dc=x").key), True),
        ("dn:garbage", None, False),
        ("dn:", None, False),
        ("alice", None, False),
        ("u:", None, False),
    ],
)
def test_nobody_acts_for_somebody_else(wanted: str, proved: tuple[str, bytes] | None, same: bool) -> None:
    """Only nobody in particular, or who was authenticated."""
    assert same_identity(wanted, DN_ALICE, "alice", proved) is same


def test_what_is_offered() -> None:
    """Nothing in the clear; EXTERNAL only to who has shown a certificate that somebody takes."""
    for certificate in (False, True):
        for external in (False, True):
            assert mechanisms(encrypted=False, certificate=certificate, external=external) == ()
            offered = mechanisms(encrypted=True, certificate=certificate, external=external)
            assert (sasl.EXTERNAL in offered) is (certificate and external)
            assert sasl.PLAIN in offered
