"""Attribute options (RFC 4512 §2.5.2): no value here has one, so descriptions with options select and match nothing."""

from __future__ import annotations

import pytest

from outposts.ldap.directory import Snapshot
from tests import factories
from tests.ldap.fixture import BASE, OPTIONS, ask, raw, snapshot

b = BASE.lower()
ALICE = f"cn=alice,ou=users,{b}"


@pytest.mark.parametrize("description", ["cn;lang-de", "cn;binary", "2.5.4.3;x-a", "userCertificate;binary"])
@pytest.mark.parametrize("types_only", [False, True])
def test_descriptions_with_options_select_nothing(description: str, types_only: bool) -> None:
    """Neither values nor names; what is asked for beside them comes."""
    directory = snapshot()
    asked = ["mail", description]
    found = ask(directory, "(&(objectClass=user)(cn=alice))", asked, types_only=types_only)
    assert set(found[ALICE]) == {"mail"}
    assert ask(directory, "(cn=alice)", [description], base=ALICE, scope=0)[ALICE] == {}


@pytest.mark.parametrize("text", ["(cn;lang-de=alice)", "(cn;lang-de=*)", "(cn;lang-de=*l*)", "(cn;lang-de>=a)"])
def test_descriptions_with_options_match_nothing(text: str) -> None:
    """False, not Undefined, for an attribute that is known: its negation is true."""
    directory = snapshot()
    assert ask(directory, text) == {}
    assert len(ask(directory, f"(!{text})")) == 17


def test_names_of_custom_attributes_have_no_options() -> None:
    """A semicolon in the core's name of an attribute becomes a hyphen, so it is a name of its own."""
    users = [factories.user(1, "alice", attributes={"description;lang-de": "x"})]
    factories.link(users, [])
    directory = Snapshot.build(OPTIONS, raw(users), [])
    assert ask(directory, "(cn=alice)", ["description-lang-de"], base=ALICE, scope=0)[ALICE] == {
        "description-lang-de": ["x"]
    }
    assert ask(directory, "(description=x)") == {}
