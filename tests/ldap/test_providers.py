"""Which provider serves a name, and what a refresh ends."""

from __future__ import annotations

from typing import Any

import pytest

from outposts.ldap.dn import DN, DNError
from outposts.ldap.providers import MEMO_SIZE, ProviderError, Providers
from tests.ldap.binds import B, settings, table

IO = settings(1, "dc=io")
LDAP = settings(2, B)
OTHER = settings(3, "o=Example, c=DE")


@pytest.mark.parametrize(
    "providers", [table(IO, LDAP, OTHER), table(LDAP, OTHER, IO)], ids=["short-first", "long-first"]
)
@pytest.mark.parametrize(
    ("name", "pk"),
    [
        ("cn=alice,ou=users,dc=ldap,dc=goauthentik,dc=io", 2),
        ("CN=alice, OU=users, DC=LDAP, DC=goauthentik, DC=IO", 2),
        (B, 2),
        ("dc=goauthentik,dc=io", 1),
        ("dc=io", 1),
        ("cn=x,dc=xldap,dc=goauthentik,dc=io", 1),
        ("dc=xio", None),
        ("o=example,c=de", 3),
        ("cn=a,o=example,c=de", 3),
        ("cn=a,o=example", None),
        ("", None),
        ("dc=com", None),
    ],
)
def test_37_the_longest_base_serves(providers: Providers, name: str, pk: int | None) -> None:
    """Whatever the order, RDN by RDN, for bind and search alike."""
    by_name = providers.for_name(DN.parse(name))
    assert (by_name.pk if by_name else None) == pk
    for _ in range(2):
        by_base = providers.for_base(name.encode())
        assert by_base is by_name


def test_a_base_that_is_no_dn_raises() -> None:
    """Every time: failures are not remembered as something else."""
    providers = table(LDAP)
    for _ in range(2):
        with pytest.raises(DNError):
            providers.for_base(b"garbage")


def test_the_memo_is_bounded() -> None:
    """Hostile bases do not fill the memory."""
    providers = table(LDAP)
    for number in range(MEMO_SIZE + 10):
        providers.for_base(f"cn={number},{B}".encode())
    providers.for_base(f"cn={'x' * 2000},{B}".encode())
    assert len(providers._memo) <= MEMO_SIZE
    assert all(len(key) < 1000 for key in providers._memo)


def test_two_providers_with_one_base() -> None:
    """The core's order decides, and the other is named."""
    twin = settings(9, B.lower())
    providers = table(LDAP, twin)
    assert providers.for_base(B.encode()) is providers.by_pk[2]
    assert [provider.pk for provider in providers.shadowed] == [9]


@pytest.mark.parametrize("base_dn", ["", "garbage", "cn=a,,dc=io", "=x"])
def test_a_base_that_cannot_be_served(base_dn: str) -> None:
    """The record is refused with its name; others are not touched."""
    with pytest.raises(ProviderError, match="provider 1"):
        settings(1, base_dn)


def test_unknown_modes_ask_the_core() -> None:
    """A mode of a later release is served directly."""
    found = settings(search_mode="hybrid", bind_mode="hybrid")
    assert (found.search_cached, found.bind_cached) == (False, False)


@pytest.mark.parametrize(
    ("change", "extra", "ends"),
    [
        ({}, {}, False),
        ({"bind_flow_slug": "other"}, {}, True),
        ({"application_slug": "other"}, {}, True),
        ({"mfa_support": False}, {}, True),
        ({"bind_mode": "cached"}, {}, True),
        ({}, {"bind_cache_max": 5.0}, True),
        ({}, {"strict": True}, False),
        ({"uid_start_number": 7}, {}, False),
        ({"unbind_flow_slug": "bye"}, {}, False),
    ],
)
def test_25_which_changes_end_cached_binds(change: dict[str, Any], extra: dict[str, Any], ends: bool) -> None:
    """Who may bind, or how, is another matter now."""
    from common.records import LDAPProvider
    from common.setting_rows import EXTRAS_BY_NAME
    from outposts.ldap.providers import Provider, resolve

    fields: dict[str, Any] = {"bind_flow_slug": "bind-flow", "application_slug": "app", "base_dn": B}
    record = LDAPProvider(pk=2, name="provider 2", **(fields | change))
    newer = Providers([Provider(resolve(record, lambda name: extra.get(name, EXTRAS_BY_NAME["ldap", name].default)))])
    assert table(LDAP).ended_binds(newer) == (frozenset({2}) if ends else frozenset())


def test_a_provider_that_is_gone_ends_its_binds() -> None:
    """Its users bound to something that is not there any more."""
    assert table(IO, LDAP).ended_binds(table(IO)) == {2}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"uid_start_number": 7}, False),
        ({"gid_start_number": 7}, False),
        ({"bind_flow_slug": "other"}, True),
    ],
)
def test_which_changes_need_other_entries(change: dict[str, Any], same: bool) -> None:
    """A snapshot stays in service as long as its entries are right."""
    fields = {key: value for key, value in change.items() if key != "bind_flow_slug"}
    assert settings(2, B, **fields).same_entries_as(LDAP) is same


def test_uid_as_naming_attribute_shows_the_user_name() -> None:
    """An entry holds the value that names it."""
    assert settings(extra={"dn_attribute": "uid"}).options.uid_is_username
