"""``outposts/radius/dictionary.py`` and its files: types both ways, secrets unseen, Debian's files as the witness."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.radius import rfc
from outposts.radius.dictionary import FILE, HIDDEN, KINDS, Definition, DictionaryError, load, read
from outposts.radius.wire import encode_attributes, vsa
from tests import peer_programs
from tests.radius.packets import packet

DEBIAN = Path("/usr/share/freeradius")
RFCS = (
    *(2865, 2866, 2867, 2868, 2869, 3162, 3576, 3580, 4072, 4372, 4675, 4679, 4818, 4849, 5090, 5176, 5447, 5580, 5607),
    *(5904, 6519, 6572, 6677, 6911, 6929, 6930, 7055, 7155, 7268, 7499),
)
VENDORS = ("microsoft", "cisco", "airespace", "aruba", "fortinet", "mikrotik", "ruckus", "juniper", "apc", "wispr")
WITNESSES = (*(f"rfc{number}" for number in RFCS), "iana", *VENDORS)
# Types that files for FreeRADIUS name and pyrad does not read; ours are the octets that they are made of.
AS_OCTETS = {"vsa", "extended", "long-extended", "tlv", "ipv4prefix"}
# Names that Debian uses a second time, with a number from before the RFC.
OLD_NUMBERS = {("digest-response", 206)}


class Witness:
    """What Debian's files say: attributes as name → [(vendor, number, type, tagged, hidden)], and named values."""

    def __init__(self) -> None:
        self.attributes: dict[str, list[tuple[int, int, str, bool, bool]]] = {}
        self.values: dict[tuple[str, str], int] = {}
        vendors = {"": 0}
        for name in WITNESSES:
            vendor = ""
            for words in lines(DEBIAN / f"dictionary.{name}"):
                match words:
                    case ["VENDOR", found, number, *_]:
                        vendors[found] = int(number)
                    case ["BEGIN-VENDOR", found, *_]:
                        vendor = found
                    case ["END-VENDOR", *_]:
                        vendor = ""
                    case ["ATTRIBUTE", found, number, kind, *rest] if number.isdecimal():
                        flags = rest[0] if rest else ""
                        row = (vendors[vendor], int(number), re.sub(r"\[.*", "", kind.lower()))
                        self.attributes.setdefault(found.lower(), []).append(
                            (*row, "has_tag" in flags, "encrypt" in flags)
                        )
                    case ["VALUE", found, value, number]:
                        self.values[found.lower(), value.lower()] = int(number, 0)


def lines(path: Path) -> Iterator[list[str]]:
    """The words of each line of a dictionary file, without remarks."""
    for line in path.read_text(errors="replace").splitlines():
        words = line.split("#")[0].split()
        if words:
            yield words


@pytest.mark.peer
def test_debian_has_the_same_numbers() -> None:
    """Every name that Debian's freeradius-common has too: vendor, number, type, tag and hiding; named values alike."""
    if not DEBIAN.is_dir():
        peer_programs.missing("freeradius-common")
    debian = Witness()
    shared_attributes = shared_values = 0
    for ours in load().all:
        found = [
            row
            for row in debian.attributes.get(ours.name.lower(), ())
            if (ours.name.lower(), row[1]) not in OLD_NUMBERS
        ]
        for vendor, number, kind, tagged, hidden in found:
            assert (vendor, number) == (ours.vendor, ours.number), ours.name
            assert kind == ours.kind or (kind in AS_OCTETS and ours.kind == "octets"), ours.name
            assert (tagged, hidden) == (ours.tagged, ours.hidden), ours.name
            shared_attributes += 1
        for number, name in ours.names.items():
            theirs = debian.values.get((ours.name.lower(), name.lower()))
            if found and theirs is not None:
                assert theirs == number, f"{ours.name} {name}"
                shared_values += 1
    assert shared_attributes > 540
    assert shared_values > 180


def test_files_are_package_data_and_name_their_source() -> None:
    """An installed copy finds them; each starts with where its numbers come from."""
    folder = resources.files("outposts.radius").joinpath("dictionaries")
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".dictionary"))
    included = sorted(words[1] for words in lines(FILE) if words[0] == "$INCLUDE")
    assert files == sorted([*included, "all.dictionary"])
    for name in included:
        assert re.match(
            r"# .*(RFC \d|\[MS|Cisco|HPE|Fortinet|MikroTik|RUCKUS|Ubiquiti|Juniper|APC|Wi-Fi)",
            folder.joinpath(name).read_text(),
        )
    pyproject = (Path(__file__).parent.parent.parent / "pyproject.toml").read_text()
    assert '"*.dictionary"' in pyproject


def test_numbers_and_names_are_unique() -> None:
    """One attribute has one number, one number one attribute, and every type is one we can read and write."""
    every = load().all
    assert len({definition.name.lower() for definition in every}) == len(every) > 550
    assert len({(definition.vendor, definition.number) for definition in every}) == len(every)
    assert {definition.kind for definition in every} <= KINDS.keys()


def test_enumerations_agree_with_the_files() -> None:
    """``rfc.Attribute`` and the files have the same numbers, and no name is in one of them only."""
    ours = {definition.number for definition in load().all if not definition.vendor}
    assert ours == set(rfc.Attribute)
    for member in rfc.Attribute:
        definition = load().numbered(0, member)
        assert definition is not None
        if member not in (rfc.Attribute.FRAMED_MANAGEMENT_PROTOCOL,):
            assert definition.name.upper().replace("-", "_") == member.name
    for registry, name in (
        (rfc.AcctStatusType, "Acct-Status-Type"),
        (rfc.AcctTerminateCause, "Acct-Terminate-Cause"),
        (rfc.ErrorCause, "Error-Cause"),
        (rfc.TunnelType, "Tunnel-Type"),
        (rfc.Prompt, "Prompt"),
    ):
        definition = load().named(name)
        assert definition is not None
        assert set(definition.names) == {int(member) for member in registry}
    vendors = {value for name, value in vars(rfc).items() if name.startswith("VENDOR_")}
    assert vendors <= {definition.vendor for definition in load().all}


def test_r42_vlan_by_names() -> None:
    """The three attributes that give VLAN 20, as the recorded blob has them; with a tag where one is asked for."""
    names = load()
    rows = [
        names.attribute("Tunnel-Type", "VLAN"),
        names.attribute("tunnel-medium-type", "ieee-802"),
        names.attribute("Tunnel-Private-Group-Id", "20"),
    ]
    assert encode_attributes(rows) == bytes.fromhex("40060000000d 410600000006 51043230")
    assert names.attribute("Tunnel-Type", 13, 31) == (64, b"\x1f\0\0\x0d")
    assert names.attribute("Tunnel-Private-Group-Id", "20", 1) == (81, b"\x0120")
    assert names.attribute("Tunnel-Private-Group-Id", b"\x05x") == (81, b"\0\x05x")
    shown = names.show([*rows, (64, b"\x1f\0\0\x0d"), (81, b"\x0120"), (81, b"\0\x05x")])
    assert shown[:5] == [
        ("Tunnel-Type", "VLAN"),
        ("Tunnel-Medium-Type", "IEEE-802"),
        ("Tunnel-Private-Group-Id", "20"),
        ("Tunnel-Type:31", "VLAN"),
        ("Tunnel-Private-Group-Id:1", "20"),
    ]
    assert shown[5] == ("Tunnel-Private-Group-Id", "0x0578")


@pytest.mark.parametrize(
    ("name", "value", "octets", "shown"),
    [
        ("User-Name", "älice", "c3a46c696365", "älice"),
        ("NAS-IP-Address", "192.0.2.1", "c0000201", "192.0.2.1"),
        ("NAS-Port", "0x10", "00000010", "16"),
        ("Service-Type", "nas-prompt-user", "00000007", "NAS-Prompt-User"),
        ("Service-Type", 99, "00000063", "99"),
        ("Class", "0x00ff", "00ff", "0x00ff"),
        ("NAS-IPv6-Address", "2001:db8::1", "20010db8000000000000000000000001", "2001:db8::1"),
        ("Framed-IPv6-Prefix", "2001:db8::/33", "002120010db800", "2001:db8::/33"),
        ("Framed-IPv6-Prefix", "::/0", "0000", "::/0"),
        ("Framed-Interface-Id", "1:0:A:ffff", "00010000000affff", "1:0:a:ffff"),
        ("Event-Timestamp", 1_700_000_000, "6553f100", "1700000000"),
        ("PKM-SAID", 258, "0102", "258"),
        ("MIP6-Feature-Vector", 2**40, "0000010000000000", "1099511627776"),
        ("Cisco-AVPair", "shell:priv-lvl=15", "7368656c6c3a707269762d6c766c3d3135", "shell:priv-lvl=15"),
        ("Fortinet-WirelessController-Device-MAC", "00-11-22-aa-BB-cc", "001122aabbcc", "00:11:22:aa:bb:cc"),
        ("Ubiquiti-Data-Rate-DL", 10_000_000, "0000000000989680", "10000000"),
    ],
)
def test_types_both_ways(name: str, value: str | int, octets: str, shown: str) -> None:
    """One value of each type: text to octets, octets to text."""
    definition = load().named(name)
    assert definition is not None
    assert definition.encode(value).hex() == octets
    row = load().attribute(name, value)
    assert row == (
        vsa(definition.vendor, definition.number, bytes.fromhex(octets))
        if definition.vendor
        else (definition.number, bytes.fromhex(octets))
    )
    assert load().show([row]) == [(name, shown)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NAS-IP-Address", "300.1.1.1"),
        ("NAS-IP-Address", "2001:db8::1"),
        ("NAS-Port", -1),
        ("NAS-Port", 2**32),
        ("NAS-Port", "many"),
        ("Service-Type", "No-Such-Service"),
        ("Class", "0xf"),
        ("NAS-IPv6-Address", "192.0.2.1"),
        ("Framed-IPv6-Prefix", "2001:db8::1/32"),
        ("Framed-Interface-Id", "1:2:3"),
        ("User-Name", "x" * 254),
        ("Cisco-AVPair", "x" * 248),
        ("User-Password", "secret"),
        ("MS-MPPE-Send-Key", b"secret"),
        ("Tunnel-Type", 2**24),
        ("Tunnel-Type", b"\1\2\3"),
        ("No-Such-Attribute", "x"),
    ],
)
def test_values_that_do_not_fit(name: str, value: str | int | bytes) -> None:
    """An error that names the attribute and never the value."""
    with pytest.raises(DictionaryError) as caught:
        load().attribute(name, value)
    assert name in str(caught.value)
    assert "secret" not in str(caught.value).replace("made with the secret", "")


def test_tags_have_a_range() -> None:
    """0 to 31, and none on attributes that have no tags."""
    for name, tag in (("Tunnel-Type", 32), ("Tunnel-Type", -1), ("User-Name", 1)):
        with pytest.raises(DictionaryError, match="no such tag"):
            load().attribute(name, "VLAN", tag)


def test_secrets_are_not_shown() -> None:
    """Passwords, keys, tokens, State and everything unknown: the name, not the value."""
    rows = [
        (2, b"hidden password!"),
        (3, b"\1chap password..."),
        (24, b"state-of-session"),
        (33, b"proxy"),
        (69, b"\0\x80\0" + b"tunnel-password."),
        (79, b"\2\1\0\5\1"),
        (200, b"who knows"),
        vsa(311, 16, b"\x80\0" + b"key" * 16),
        vsa(311, 25, b"response"),
        vsa(14988, 16, b"wireless-psk-pass"),
        vsa(9, 1, b"psk=wireless-psk-pass"),
        vsa(25053, 142, b"dpsk"),
        vsa(4711, 1, b"who knows"),
    ]
    shown = load().show(rows)
    assert len(shown) == len(rows)
    for name, text in shown:
        assert text == HIDDEN or (name.startswith("Attr-") and re.fullmatch(r"\(\d+ octets\)", text))
    assert shown[6] == ("Attr-200", "(9 octets)")
    assert shown[12] == ("Attr-26.4711.1", "(9 octets)")


def test_what_does_not_fit_its_type_is_shown_as_octets() -> None:
    """A wrong size, control characters, text that is not UTF-8, a vendor attribute of another format."""
    for row, text in (
        ((4, b"\1\2\3"), "0x010203"),
        ((1, b"a\nb"), "0x610a62"),
        ((1, b"\xff"), "0xff"),
        ((97, b"\0"), "0x00"),
        ((97, b"\0\x81" + bytes(16)), "0x0081" + "00" * 16),
        ((97, b"\0\x08\x20\x01"), "0x00082001"),
        ((26, b"\0\0\0\x09\1\xffx"), "0x0000000901ff78"),
        ((96, bytes(7)), "0x" + "00" * 7),
    ):
        assert load().show([row])[0][1] == text


SAMPLES: dict[str, st.SearchStrategy[str | int]] = {
    "string": st.text(alphabet=st.characters(categories=("L", "N", "P")), max_size=60),
    "integer": st.integers(0, 2**32 - 1),
    "date": st.integers(0, 2**32 - 1),
    "byte": st.integers(0, 255),
    "short": st.integers(0, 2**16 - 1),
    "integer64": st.integers(0, 2**64 - 1),
    "octets": st.binary(max_size=200).map(lambda octets: f"0x{octets.hex()}"),
    "ipaddr": st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number))),
    "ipv6addr": st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number))),
    "ipv6prefix": st.builds(
        lambda number, bits: str(IPv6Network((number, bits), strict=False)),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
    "ifid": st.lists(st.integers(0, 0xFFFF), min_size=4, max_size=4).map(
        lambda groups: ":".join(f"{group:x}" for group in groups)
    ),
    "ether": st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":")),
}


@given(st.data(), st.sampled_from(sorted(KINDS)))
def test_every_type_comes_back(data: st.DataObject, kind: str) -> None:
    """Text of each type is octets and the same text again."""
    value = data.draw(SAMPLES[kind])
    definition = Definition("Sample", 0, 1, kind)
    assert definition.decode(definition.encode(value)) == (str(value), 0)


@given(st.sampled_from(load().all), st.binary(max_size=253))
def test_showing_never_fails(definition: Definition, octets: bytes) -> None:
    """Whatever a peer puts into an attribute, there is a text for it on one line."""
    row = (
        (26, definition.vendor.to_bytes(4, "big") + bytes((definition.number,)) + octets)
        if definition.vendor
        else (
            definition.number,
            octets,
        )
    )
    for name, text in load().show([(row[0], row[1][:253])]):
        assert name
        assert text.isprintable()


def test_pyrad_makes_the_same_octets() -> None:
    """An independent encoder, with our files, of values of many types."""
    from pyrad.dictionary import Dictionary
    from pyrad.packet import AuthPacket

    theirs = AuthPacket(code=1, secret=b"x", authenticator=bytes(16), dict=Dictionary(str(FILE)), id=7)
    for name, value in (
        ("NAS-IP-Address", "192.0.2.1"),
        ("NAS-IPv6-Address", "2001:db8::1"),
        ("Service-Type", "Framed-User"),
        ("Event-Timestamp", 1_700_000_000),
        ("Framed-Interface-Id", "1:2:a:ffff"),
        ("PKM-SAID", 258),
        ("Mikrotik-Rate-Limit", "10M/10M"),
        ("WISPr-Bandwidth-Max-Down", 5_000_000),
        ("Aruba-User-Role", "guest"),
    ):
        theirs[name] = value
        octets = theirs.RequestPacket()
        expected = packet(1, encode_attributes([load().attribute(name, value)]))
        assert octets[20:] == expected[20:], name
        del theirs[name]


def test_other_files_can_be_read(tmp_path: Path) -> None:
    """An operator's own file may include ours."""
    own = tmp_path / "own.dictionary"
    own.write_text(f"$INCLUDE {FILE}\nVENDOR Example 32473\nBEGIN-VENDOR Example\nATTRIBUTE Example-Role 1 string\n")
    assert read(own).attribute("Example-Role", "x") == vsa(32473, 1, b"x")
    assert read(own).named("User-Name") == load().named("User-Name")
