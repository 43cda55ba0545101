"""A small blocking LDAP client for tests: sends exactly the bytes a test wants and shows exactly what comes back.

It shares no code with ``outposts/ldap``: filters in text form are encoded by ldaptor, the rest is the dozen lines of
BER below. Real clients (ldap-utils, python-ldap, ldap3) are tested in ``tests/peers``.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ldaptor.ldapfilter import parseFilter

TIMEOUT_S = 15.0  # a daemon that answers later than that fails the test
BASE, ONE, SUB = 0, 1, 2  # scopes, RFC 4511 section 4.5.1.2

# protocolOp tags, RFC 4511 section 4
BIND_RESPONSE, ENTRY, DONE, REFERENCE, EXTENDED_RESPONSE = 0x61, 0x64, 0x65, 0x73, 0x78
NOTICE_OF_DISCONNECTION = "1.3.6.1.4.1.1466.20036"
START_TLS = "1.3.6.1.4.1.1466.20037"
WHO_AM_I = "1.3.6.1.4.1.4203.1.11.3"


def tlv(tag: int, *contents: bytes) -> bytes:
    """One BER element of the given contents."""
    body = b"".join(contents)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def integer(value: int, tag: int = 0x02) -> bytes:
    """An INTEGER, or an ENUMERATED with tag 0x0a."""
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def octets(value: str | bytes, tag: int = 0x04) -> bytes:
    """An OCTET STRING; text becomes UTF-8."""
    return tlv(tag, value.encode() if isinstance(value, str) else value)


def boolean(value: bool) -> bytes:
    """A BOOLEAN."""
    return tlv(0x01, b"\xff" if value else b"\x00")


def equality(attribute: str, value: str | bytes) -> bytes:
    """An equality filter as bytes; any value, also the empty one."""
    return tlv(0xA3, octets(attribute), octets(value))


def control(oid: str, *, critical: bool = False, value: bytes | None = None) -> bytes:
    """One control."""
    return tlv(0x30, octets(oid), boolean(critical) if critical else b"", b"" if value is None else octets(value))


def message(number: int, operation: bytes, controls: Sequence[bytes] = ()) -> bytes:
    """A whole LDAPMessage."""
    return tlv(0x30, integer(number), operation, tlv(0xA0, *controls) if controls else b"")


def bind_operation(dn: str, password: str | bytes, *, version: int = 3) -> bytes:
    """A simple bind."""
    return tlv(0x60, integer(version), octets(dn), octets(password, 0x80))


def sasl_operation(mechanism: str, credentials: bytes | None = None, dn: str = "") -> bytes:
    """A SASL bind."""
    given = b"" if credentials is None else octets(credentials)
    return tlv(0x60, integer(3), octets(dn), tlv(0xA3, octets(mechanism), given))


def search_operation(
    base: str,
    scope: int = SUB,
    filter: str | bytes = "(objectClass=*)",
    attributes: Sequence[str] = (),
    *,
    size_limit: int = 0,
    types_only: bool = False,
) -> bytes:
    """A search request. ``filter`` is RFC 4515 text, or finished BER."""
    encoded = parseFilter(filter).toWire() if isinstance(filter, str) else filter
    return tlv(
        0x63,
        octets(base),
        integer(scope, 0x0A),
        integer(0, 0x0A),
        integer(size_limit),
        integer(0),
        boolean(types_only),
        encoded,
        tlv(0x30, *(octets(name) for name in attributes)),
    )


def extended_operation(oid: str, value: bytes | None = None) -> bytes:
    """An extended request."""
    return tlv(0x77, octets(oid, 0x80), b"" if value is None else octets(value, 0x81))


def compare_operation(dn: str, attribute: str, value: str) -> bytes:
    """A compare request."""
    return tlv(0x6E, octets(dn), tlv(0x30, octets(attribute), octets(value)))


class NotLDAP(AssertionError):
    """The server sent something that is no LDAPMessage."""


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements that follow each other in ``data``: tag and contents."""
    position = 0
    while position < len(data):
        tag, length, start = data[position], *_length(data, position + 1)
        if start + length > len(data):
            raise NotLDAP(f"element longer than its parent: {data!r}")
        yield tag, data[start : start + length]
        position = start + length


def _length(data: bytes, position: int) -> tuple[int, int]:
    first = data[position]
    if first < 0x80:
        return first, position + 1
    count = first & 0x7F
    return int.from_bytes(data[position + 1 : position + 1 + count], "big"), position + 1 + count


@dataclass
class Entry:
    """One SearchResultEntry; attribute names as sent."""

    dn: str
    attributes: dict[str, list[str]]

    def __getitem__(self, name: str) -> list[str]:
        return self.attributes[name]

    def __contains__(self, name: str) -> bool:
        return name in self.attributes


@dataclass
class Answer:
    """What one operation came to."""

    tag: int
    code: int
    matched: str = ""
    text: str = ""
    name: str | None = None  # responseName of an extended response
    value: bytes | None = None
    entries: list[Entry] = field(default_factory=list)
    controls: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def dns(self) -> list[str]:
        """The entries' DNs in the order they came."""
        return [entry.dn for entry in self.entries]

    @property
    def cns(self) -> set[str]:
        """First RDN values, as far as a test needs them."""
        return {dn.split(",")[0].partition("=")[2] for dn in self.dns}


class Closed(AssertionError):
    """The server ended the connection."""


class Client:
    """One connection. ``send`` and ``receive`` are raw; the verbs send one request and wait for its answer."""

    def __init__(self, address: tuple[str, int], *, tls: bool = False, server_name: str = "localhost") -> None:
        self.socket: socket.socket = socket.create_connection(address, TIMEOUT_S)
        self.buffer = b""
        self.number = 0
        if tls:
            self.start_tls(server_name)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_tls(self, server_name: str = "localhost") -> None:
        """Begin TLS on the socket; certificates are not checked, they are looked at by tests."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket, server_hostname=server_name)

    def close(self) -> None:
        """Drop the connection."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def request(self, operation: bytes, controls: Sequence[bytes] = ()) -> int:
        """Send one operation under the next message id, and return that."""
        self.number += 1
        self.send(message(self.number, operation, controls))
        return self.number

    def _fill(self) -> None:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise Closed(f"connection ended with {len(self.buffer)} bytes of an answer")
        self.buffer += data

    def receive(self) -> tuple[int, int, bytes, list[tuple[str, bytes]]]:
        """The next message: id, operation tag, operation contents, controls."""
        while True:
            if len(self.buffer) >= 2 and len(self.buffer) >= 2 + (self.buffer[1] & 0x7F) * (self.buffer[1] >> 7):
                length, start = _length(self.buffer, 1)
                if len(self.buffer) >= start + length:
                    break
            self._fill()
        if self.buffer[0] != 0x30:
            raise NotLDAP(repr(self.buffer[:40]))
        body, self.buffer = self.buffer[start : start + length], self.buffer[start + length :]
        (_, number), (tag, contents), *rest = elements(body)
        controls = []
        for _, packed in rest:
            for _, one in elements(packed):
                parts = list(elements(one))
                value = parts[-1][1] if len(parts) > 1 and parts[-1][0] == 0x04 else b""
                controls.append((parts[0][1].decode(), value))
        return int.from_bytes(number, "big", signed=True), tag, contents, controls

    def answer(self, number: int) -> Answer:
        """Collect entries until the final response of a request."""
        entries: list[Entry] = []
        while True:
            got, tag, contents, controls = self.receive()
            if got != number:
                raise NotLDAP(f"answer to {got:d} while waiting for {number:d}: {tag:#x} {contents!r}")
            if tag == ENTRY:
                (_, dn), (_, attributes) = elements(contents)
                entry = Entry(dn.decode(), {})
                for _, attribute in elements(attributes):
                    (_, name), (_, values) = elements(attribute)
                    if name.decode() in entry:
                        raise NotLDAP(f"attribute {name!r} twice in {entry.dn}")
                    entry.attributes[name.decode()] = [value.decode() for _, value in elements(values)]
                entries.append(entry)
            elif tag != REFERENCE:
                answer = decode_result(tag, contents)
                answer.entries, answer.controls = entries, controls
                return answer

    def bind(self, dn: str, password: str | bytes, *, version: int = 3) -> Answer:
        """Simple bind."""
        return self.answer(self.request(bind_operation(dn, password, version=version)))

    def sasl(self, mechanism: str, credentials: bytes | None = None) -> Answer:
        """SASL bind."""
        return self.answer(self.request(sasl_operation(mechanism, credentials)))

    def search(
        self,
        base: str,
        scope: int = SUB,
        filter: str | bytes = "(objectClass=*)",
        attributes: Sequence[str] = (),
        *,
        size_limit: int = 0,
        types_only: bool = False,
        controls: Sequence[bytes] = (),
    ) -> Answer:
        """Search."""
        operation = search_operation(base, scope, filter, attributes, size_limit=size_limit, types_only=types_only)
        return self.answer(self.request(operation, controls))

    def extended(self, oid: str, value: bytes | None = None) -> Answer:
        """Extended operation."""
        return self.answer(self.request(extended_operation(oid, value)))

    def compare(self, dn: str, attribute: str, value: str) -> Answer:
        """Compare."""
        return self.answer(self.request(compare_operation(dn, attribute, value)))

    def is_open(self) -> bool:
        """Whether the server still answers: asks for the root DSE's objectClass."""
        try:
            return self.search("", BASE, "(objectClass=*)", ["1.1"]).code == 0
        except (Closed, BrokenPipeError, ConnectionResetError):
            return False

    def wait_closed(self) -> bytes:
        """Wait for the end of the connection and return what came before it."""
        try:
            while True:
                self._fill()
        except Closed:
            rest, self.buffer = self.buffer, b""
            return rest


def decode_result(tag: int, contents: bytes) -> Answer:
    """An LDAPResult, with the extra fields of an extended response."""
    parts = list(elements(contents))
    (_, code), (_, matched), (_, text) = parts[:3]
    answer = Answer(tag, int.from_bytes(code, "big"), matched.decode(), text.decode())
    for extra, value in parts[3:]:
        if extra == 0x8A:
            answer.name = value.decode()
        elif extra in (0x87, 0x8B):
            answer.value = value
    return answer
