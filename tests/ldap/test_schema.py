"""Syntaxes compare as RFC 4517 says; everything that is emitted is defined."""

from __future__ import annotations

import re

import pytest

from outposts.ldap.schema import (
    ATTRIBUTE_TYPES,
    CLASS_NAMES,
    OBJECT_CLASS_DEFINITIONS,
    OBJECT_CLASSES,
    SYNTAXES,
    RootInfo,
    Schema,
    integer_of,
    root_dse,
    subschema,
)
from tests.ldap.fixture import ask, snapshot


def normalised(letter: str, value: str) -> bytes | None:
    return SYNTAXES[letter].normalise(value.encode())


@pytest.mark.parametrize(
    ("letter", "one", "other"),
    [
        ("S", "Alice  Müller ", "alice müller"),
        ("S", "STRASSE", "straße"),
        ("T", "+49 30-12", "+493012"),
        ("D", "CN=Alice , OU=users,dc=X", "cn=alice,ou=users,dc=x"),
        ("I", "0042", "42"),
        ("I", "-0", "0"),
        ("G", "202601020304Z", "20260102030400Z"),
        ("G", "20260102040400.50+0100", "20260102030400.5Z"),
        ("G", "2026010203.5Z", "20260102033000Z"),
        ("B", "true", "TRUE"),
        ("U", "5B2D4CC0-0000-4000-8000-000000000001", "5b2d4cc0-0000-4000-8000-000000000001"),
    ],
)
def test_equal_values(letter: str, one: str, other: str) -> None:
    """Values that the rule of the syntax calls equal have one comparable form."""
    assert normalised(letter, one) == normalised(letter, other) is not None


@pytest.mark.parametrize(
    ("letter", "value"),
    [
        ("I", "abc"),
        ("I", ""),
        ("I", "1.5"),
        ("G", "2026"),
        ("G", "20261301000000Z"),
        ("B", "yes"),
        ("U", "x"),
        ("D", "x"),
    ],
)
def test_invalid_values(letter: str, value: str) -> None:
    """A value that the syntax does not allow has none."""
    assert normalised(letter, value) is None


def test_invalid_utf8() -> None:
    """Text has to be UTF-8."""
    assert SYNTAXES["S"].normalise(b"\xff") is None


def test_integer_order_is_numeric() -> None:
    """Byte order of the comparable form is the order of the numbers, and the form is reversible."""
    numbers = sorted([-1000, -999, -10, -9, -1, 0, 1, 9, 10, 99, 100, 12345678901234567890, -(10**40), 10**40])
    forms = [SYNTAXES["I"].normalise(str(number).encode()) or b"" for number in numbers]
    assert forms == sorted(forms)
    assert [integer_of(form) for form in forms] == numbers
    assert all(b"\xff" not in form for form in forms)


def test_time_order() -> None:
    """A fraction comes behind the whole second and before the next."""
    times = ["20260102030400Z", "20260102030400.5Z", "20260102030401Z"]
    forms = [normalised("G", text) or b"" for text in times]
    assert forms == sorted(forms)


def test_definitions_are_unique() -> None:
    """No name and no OID is defined twice."""
    keys = [key.lower() for kind in ATTRIBUTE_TYPES for key in (*kind.names, kind.oid)]
    keys += [key.lower() for entry in OBJECT_CLASS_DEFINITIONS for key in (entry.name, entry.oid)]
    assert len(keys) == len(set(keys))


def test_classes_are_closed() -> None:
    """Every class that an entry shows, every superior and every listed attribute is defined."""
    schema = Schema()
    for names in OBJECT_CLASSES.values():
        assert all(name.lower() in CLASS_NAMES for name in names)
    for entry in OBJECT_CLASS_DEFINITIONS:
        assert entry.superior is None or entry.superior.lower() in CLASS_NAMES
        assert all(schema.canonical(name) for name in entry.must + entry.may), entry.name


def test_everything_emitted_is_defined() -> None:
    """Attributes of all entries, of the root DSE and of the schema entry itself appear in attributeTypes."""
    directory = snapshot()
    shown = set()
    for base, scope in ((str(directory.base), 2), ("", 0), ("cn=subschema", 0)):
        for entry in ask(directory, attributes=["*", "+"], base=base, scope=scope).values():
            shown |= entry.keys()
    text = " ".join(dict(subschema(directory.schema))["attributeTypes"])
    defined = set(re.findall(r"'([^']+)'", text))
    assert not {name.lower() for name in shown} - {name.lower() for name in defined}
    assert "ab-c" in shown


def test_custom_attributes_are_generated() -> None:
    """With an OID of their own that does not change, and in the MAY lists of the classes that carry them."""
    schema = Schema(["extra", "CN", "lst"])
    assert [kind.names for kind in schema.custom] == [("extra",), ("lst",)]
    assert schema.types["extra"].oid == Schema(["extra"]).types["extra"].oid
    carriers = [entry for entry in schema.classes() if "extra" in entry.may]
    assert {entry.name for entry in carriers} == {"goauthentik.io/ldap/user", "goauthentik.io/ldap/group"}
    assert "extra" in (schema.class_attributes("goauthentik.io/ldap/user") or ())
    assert schema.class_attributes("nosuch") is None


def test_root_dse_advertises_what_it_is_given() -> None:
    """Controls, extensions and mechanisms come from the server alone; empty lists are left out."""
    bare = dict(root_dse("DC=x", RootInfo("1.0"))[0])
    assert not {"supportedControl", "supportedExtension", "supportedSASLMechanisms", "supportedFeatures"} & bare.keys()
    full = dict(root_dse("DC=x", RootInfo("1.0", ("1.2",), ("1.3",), ("PLAIN",), ("1.4",)))[0])
    assert full["supportedControl"] == ("1.2",)
    assert full["namingContexts"] == ("dc=x",)
    nothing = dict(root_dse(None, RootInfo("1.0"))[0])
    assert "namingContexts" not in nothing
    assert "vendorVersion" not in nothing
