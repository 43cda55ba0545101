"""Filters against a plain evaluator that looks at every entry, where slapd cannot be the judge; and cases by hand.

``tests/peers/test_oracle.py`` compares everything else with slapd.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outposts.ldap.directory import Snapshot
from outposts.ldap.entries import EntryOptions
from outposts.ldap.evaluation import evaluate, matches
from outposts.ldap.filter_text import parse_text
from outposts.ldap.filters import Extensible, Not
from tests import factories
from tests.ldap.fixture import BASE, ask, names, raw, snapshot

LOWER = BASE.lower()
BIT_AND, BIT_OR, IN_CHAIN = "1.2.840.113556.1.4.803", "1.2.840.113556.1.4.804", "1.2.840.113556.1.4.1941"


def forest(seed: int, **options: Any) -> Snapshot:
    """Twelve groups with random nesting, circles too, thirty users with random numbers and groups."""
    rng = random.Random(seed)
    pks = range(1, 31)
    users = [
        factories.user(pk, f"u{pk}", attributes={"groupType": str(rng.choice([0, 1, 2, 3, 5, 8, -1, -8, 2**31]))})
        for pk in pks
    ]
    titles = [f"g{number}" for number in range(12)]
    groups = [
        factories.group(
            title,
            number,
            users=sorted(rng.sample(pks, rng.randint(0, 4))),
            parents=rng.sample([other for other in titles if other != title], rng.randint(0, 2)),
        )
        for number, title in enumerate(titles)
    ]
    factories.link(users, groups)
    return Snapshot.build(EntryOptions(BASE, **options), raw(users), raw(groups))


FORESTS = [forest(seed) for seed in range(4)]


def values_of(directory: Snapshot, attribute: str) -> dict[str, list[str]]:
    """DN → values of one attribute, from the encoded answers."""
    return {dn: entry.get(attribute, []) for dn, entry in ask(directory, attributes=[attribute]).items()}


def found(directory: Snapshot, node: Any) -> set[str]:
    return {directory.dn(number).decode().lower() for number in matches(directory, node)}


@given(st.sampled_from(FORESTS), st.sampled_from([BIT_AND, BIT_OR]), st.integers(-(2**33), 2**33) | st.integers(0, 16))
@settings(max_examples=200, deadline=None)
def test_bit_rules(directory: Snapshot, rule: str, mask: int) -> None:
    """All bits, any bit; negative numbers in two's complement."""
    expected = {
        dn.lower()
        for dn, values in values_of(directory, "groupType").items()
        if any((int(value) & mask == mask) if rule == BIT_AND else int(value) & mask != 0 for value in values)
    }
    assert found(directory, Extensible(rule, "grouptype", str(mask).encode())) == expected


@given(st.sampled_from(FORESTS), st.sampled_from(["member", "memberOf"]), st.data())
@settings(max_examples=200, deadline=None)
def test_in_chain(directory: Snapshot, attribute: str, data: st.DataObject) -> None:
    """Every entry from which a chain of the attribute's values leads to the target; circles end."""
    links = {dn: set(values) for dn, values in values_of(directory, attribute).items()}
    target = data.draw(st.sampled_from(sorted(links)))
    expected: set[str] = set()
    grew = True
    while grew:
        more = {dn for dn, values in links.items() if values & ({target} | expected)}
        if attribute == "member":  # a virtual group is nobody's member
            more = {dn for dn in more if links[dn] & {target, *(dn for dn in expected if "virtual" not in dn)}}
        grew = not more <= expected
        expected |= more
    assert found(directory, Extensible(IN_CHAIN, attribute.lower(), target.upper().encode())) == {
        dn.lower() for dn in expected
    }


@pytest.mark.parametrize("seed", range(4))
def test_nested_groups_show_what_chains_reach(seed: int) -> None:
    """With ``nested_groups`` every entry carries the whole chain, upwards and downwards, itself excepted."""
    flat, nested = forest(seed), forest(seed, nested_groups=True, extra_attributes=("memberUid",))
    entries = ask(nested)
    for attribute in ("member", "memberOf"):
        for target in (dn for dn in entries if ",ou=groups," in dn or ",ou=users," in dn):
            chained = found(flat, Extensible(IN_CHAIN, attribute.lower(), target.encode())) - {target.lower()}
            shown = {dn.lower() for dn, entry in entries.items() if target in entry.get(attribute, ())}
            assert shown == chained, (attribute, target)
    for dn, entry in entries.items():
        members = [name.partition(",")[0][3:] for name in entry.get("member", ()) if ",ou=users," in name]
        assert entry.get("memberUid", []) == members, dn


CUSTOM = {
    "description": ["John  Smith", "ab"],
    "title": "foo bar",
    "x121Address": "12 34",
    "loginShell": "/bin/Bash",
    "sshPublicKey": "ssh-rsa AAAA",
    "telephoneNumber": "+49 30-12",
}


def one() -> Snapshot:
    users = [factories.user(1, "alice", attributes=CUSTOM), factories.user(2, "bob", email="")]
    return Snapshot.build(EntryOptions(BASE), raw(users), [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # no value is empty, and the empty text is no directory string: neither it nor its negation matches
        ("(mail=)", ""),
        ("(!(mail=))", ""),
        ("(!(member=))", "alice bob"),
        # an attribute that nobody defines is undefined, whatever is around it
        ("(nosuch=*)", ""),
        ("(!(nosuch=*))", ""),
        ("(!(&(nosuch=1)(cn=bob)))", "alice"),
        ("(!(|(nosuch=1)(cn=bob)))", ""),
        ("(|(nosuch=1)(cn=bob))", "bob"),
        ("(!(!(!(nosuch=1))))", ""),
        # one that is defined and absent is false
        ("(!(loginShell=/bin/sh))", "alice bob"),
        ("(!(seeAlso=x))", ""),
        ("(!(uidNumber=abc))", ""),
        ("(!(cn:2.5.13.14:=1))", ""),
        ("(!(cn:9.9.9:=1))", ""),
        # what a rule compares
        ("(loginShell=/bin/Bash)", "alice"),
        ("(loginShell=/bin/bash)", ""),
        ("(loginShell=*/ba*)", ""),
        ("(loginShell=*/Ba*)", "alice"),
        ("(loginShell:caseIgnoreIA5Match:=/BIN/BASH)", "alice"),
        ("(sshPublicKey=ssh-rsa AAAA)", "alice"),
        ("(sshPublicKey=ssh-rsa aaaa)", ""),
        ("(sshPublicKey=ssh-rsa\\ffAAAA)", ""),
        ("(sshPublicKey=*rsa*)", ""),
        ("(x121Address=1 234)", "alice"),
        ("(x121Address=*2 3*)", "alice"),
        ("(x121Address>=1233)", "alice"),
        ("(x121Address=12a)", ""),
        ("(!(x121Address=*a*))", ""),
        ("(telephoneNumber=+493012)", "alice"),
        ("(telephoneNumber:caseIgnoreMatch:=+493012)", ""),
        ("(telephoneNumber:caseIgnoreMatch:=+49  30-12)", "alice"),
        ("(cn:caseExactMatch:=alice)", "alice"),
        ("(cn:caseExactMatch:=Alice)", ""),
        ("(cn~=ALICE)", "alice"),
        # spaces in substrings, RFC 4518 section 2.6.1: a value begins and ends with one
        ("(title=foo *)", "alice"),
        ("(title=fo *)", ""),
        ("(title=* foo*)", "alice"),
        ("(title=* oo*)", ""),
        ("(title=*foo *bar)", "alice"),
        ("(title=*bar *)", "alice"),
        ("(description=*john smith*)", "alice"),
        ("(title= *)", "alice"),
        # names
        ("(ou:dn:=users)", "alice bob"),
        ("(:dn:2.5.13.5:=bob)", "bob"),
        ("(cn:dn:integerMatch:=bob)", ""),
        ("(cn:dn:caseExactMatch:=Bob)", ""),
        # computed attributes
        ("(numSubordinates>=0)", "alice bob"),
        ("(numSubordinates>=1)", ""),
        ("(entryUUID>=00000000-0000-0000-0000-000000000000)", "alice bob"),
        ("(entryUUID<=00000000-0000-0000-0000-000000000000)", ""),
        ("(!(hasSubordinates=TRUE))", "alice bob"),
        ("(modifyTimestamp<=20260104030405.9Z)", "alice bob"),
        ("(modifyTimestamp>=202601040305+0100)", "alice bob"),
        ("(modifyTimestamp>=20260104030405.5Z)", ""),
    ],
)
def test_cases(text: str, expected: str) -> None:
    """Users that a filter matches."""
    found = ask(one(), f"(&(objectClass=user){text})")
    assert " ".join(name.partition(",")[0] for name in names(found)) == expected


def test_nothing_is_true_and_undefined() -> None:
    """No entry is in both answers, and a negation keeps what is undefined."""
    directory = snapshot()
    for rule in (None, "2.5.13.2", "2.5.13.14", "9.9"):
        for attribute in ("cn", "nosuch", "member", None):
            node = Extensible(rule or ("2.5.13.2" if attribute is None else None), attribute, b"alice", True)
            true, undefined = evaluate(directory, node)
            other, still = evaluate(directory, Not(node))
            assert not set(true) & set(undefined or ())
            assert set(undefined or ()) == set(still or ())
            assert len(true) + len(other) + len(undefined or ()) == len(directory)


def test_unknown_target_of_a_chain() -> None:
    """A DN of nobody, and text that is no DN."""
    directory = FORESTS[0]
    assert not found(directory, Extensible(IN_CHAIN, "memberof", f"cn=nobody,ou=groups,{LOWER}".encode()))
    assert evaluate(directory, Extensible(IN_CHAIN, "memberof", b"garbage"))[1] == directory.all


@pytest.mark.parametrize("digits", [640, 641, 4301, 60_000])
@pytest.mark.parametrize("template", ["(groupType:{rule}:=-{digits})", "(groupType>={digits})", "(groupType={digits})"])
def test_numbers_that_nobody_counts(digits: int, template: str) -> None:
    """A number that is too long to be one is Undefined; before that it is compared like any other."""
    node = parse_text(template.format(rule=BIT_AND, digits="9" * digits))
    true, undefined = evaluate(FORESTS[0], node)
    if digits > 640:
        assert not true
        assert undefined == FORESTS[0].all
    else:
        assert undefined is None
