"""ldap3 against the real daemon and the real embedded core. It reads the schema first, as many applications let it."""

from __future__ import annotations

import ssl
from typing import Any

import ldap3
import pytest

from tests.peers.suite import ALICE, BASE, SEARCH, SEARCH_PASSWORD, Suite


def connection(suite: Suite, dn: str = SEARCH, password: str = SEARCH_PASSWORD, **options: Any) -> Any:
    """An ldap3 connection, not bound yet."""
    host, port = suite.ldap.address("ldap")
    server = ldap3.Server(host, port, get_info=ldap3.ALL, connect_timeout=10)
    return ldap3.Connection(server, dn, password, receive_timeout=20, **options)


def test_the_whole_directory_with_the_schema_checked(suite: Suite) -> None:
    """Every attribute that comes back, and every one asked for, is one that the schema has."""
    link = connection(suite, auto_bind=True)
    assert link.server.info.naming_contexts
    assert link.server.schema.attribute_types
    assert link.search(BASE, "(objectClass=user)", attributes=ldap3.ALL_ATTRIBUTES)
    people = {entry["dn"]: entry["attributes"] for entry in link.response}
    assert len(people) >= 53
    assert people[ALICE]["mail"] in ("alice@example.org", ["alice@example.org"])
    link.unbind()


def test_alice_is_found_in_every_way(suite: Suite) -> None:
    """Name, account name, mail, group, uid."""
    link = connection(suite, auto_bind=True)
    assert link.search(ALICE, "(objectClass=*)", ldap3.BASE, attributes=["uid"])
    uid = link.response[0]["attributes"]["uid"]
    uid = uid[0] if isinstance(uid, list) else uid
    for filter in (
        "(cn=alice)",
        "(sAMAccountName=alice)",
        "(mail=alice@example.org)",
        f"(memberOf=cn=staff,ou=groups,{BASE})",
        f"(uid={uid})",
    ):
        assert link.search(BASE, filter, attributes=["cn"]), filter
        assert ALICE in [entry["dn"] for entry in link.response], filter
    link.unbind()


def test_a_wrong_password_is_49(suite: Suite) -> None:
    """Never accepted."""
    link = connection(suite, ALICE, "wrong")
    assert not link.bind()
    assert link.result["result"] == 49
    link.unbind()


@pytest.mark.parametrize("way", ["ldaps", "StartTLS"])
def test_tls(suite: Suite, way: str) -> None:
    """Both ways to TLS."""
    tls = ldap3.Tls(validate=ssl.CERT_NONE)
    host, port = suite.ldap.address("ldaps" if way == "ldaps" else "ldap")
    server = ldap3.Server(host, port, use_ssl=way == "ldaps", tls=tls, get_info=ldap3.NONE)
    link = ldap3.Connection(server, SEARCH, SEARCH_PASSWORD, receive_timeout=20)
    if way == "StartTLS":
        assert link.start_tls()
    assert link.bind(), link.result
    assert link.search(ALICE, "(objectClass=*)", ldap3.BASE)
    link.unbind()
