"""LDAP messages as typed, immutable values: what :mod:`wire` decodes to and encodes from.

Every message has ``message_id`` first and ``controls`` last. Text that the protocol does not promise to be valid
UTF-8 (names, attribute descriptions, values) stays ``bytes``; object identifiers are ``str``. Each class names its
section of RFC 4511.
"""

from __future__ import annotations

import msgspec

from outposts.ldap.filters import Filter


class Control(msgspec.Struct, frozen=True, gc=False):
    """§4.1.11. ``value`` is None when absent, which differs from empty."""

    oid: str
    critical: bool = False
    value: bytes | None = None


class Simple(msgspec.Struct, frozen=True, gc=False):
    """§4.2: simple authentication. The password never shows in a representation."""

    password: bytes

    def __repr__(self) -> str:
        return "Simple(password=***)"


class Sasl(msgspec.Struct, frozen=True, gc=False):
    """§4.2: SASL. ``credentials`` is None when absent, and never shows in a representation."""

    mechanism: str
    credentials: bytes | None = None

    def __repr__(self) -> str:
        return f"Sasl(mechanism={self.mechanism!r}, credentials={'None' if self.credentials is None else '***'})"


class UnknownAuthentication(msgspec.Struct, frozen=True, gc=False):
    """§4.2: a choice that RFC 4511 does not define. The answer is authMethodNotSupported."""

    tag: int


Authentication = Simple | Sasl | UnknownAuthentication


class BindRequest(msgspec.Struct, frozen=True):
    """§4.2."""

    message_id: int
    version: int
    name: bytes
    authentication: Authentication
    controls: tuple[Control, ...] = ()


class UnbindRequest(msgspec.Struct, frozen=True):
    """§4.3. No response."""

    message_id: int
    controls: tuple[Control, ...] = ()


class SearchRequest(msgspec.Struct, frozen=True):
    """§4.5.1.

    ``scope`` and ``deref`` compare equal to :class:`rfc.Scope` and :class:`rfc.DerefAliases`; a scope outside that
    list never gets here. Limits: ``size_limit`` in entries, ``time_limit`` in seconds, 0 = none asked for.
    ``raw`` holds the encoded elements from baseObject to attributes: equal ``raw`` means equal request (without
    message id and controls), as a cache or a paging cookie wants it; empty when built by hand.
    """

    message_id: int
    base: bytes
    scope: int
    deref: int
    size_limit: int
    time_limit: int
    types_only: bool
    filter: Filter
    attributes: tuple[bytes, ...] = ()
    controls: tuple[Control, ...] = ()
    raw: bytes = b""

    def __eq__(self, other: object) -> bool:
        """Equal in everything that was asked; ``raw`` may differ, BER has several encodings of one value."""
        if not isinstance(other, SearchRequest):
            return NotImplemented
        return msgspec.structs.astuple(self)[:-1] == msgspec.structs.astuple(other)[:-1]

    def __hash__(self) -> int:
        return hash(msgspec.structs.astuple(self)[:-1])


class Attribute(msgspec.Struct, frozen=True):
    """§4.1.7: an attribute description with its values."""

    description: bytes
    values: tuple[bytes, ...]


class Change(msgspec.Struct, frozen=True):
    """§4.6: one change; ``operation`` as :class:`rfc.ModifyOperation`."""

    operation: int
    attribute: Attribute


class ModifyRequest(msgspec.Struct, frozen=True):
    """§4.6."""

    message_id: int
    name: bytes
    changes: tuple[Change, ...]
    controls: tuple[Control, ...] = ()


class AddRequest(msgspec.Struct, frozen=True):
    """§4.7."""

    message_id: int
    name: bytes
    attributes: tuple[Attribute, ...]
    controls: tuple[Control, ...] = ()


class DeleteRequest(msgspec.Struct, frozen=True):
    """§4.8."""

    message_id: int
    name: bytes
    controls: tuple[Control, ...] = ()


class ModifyDNRequest(msgspec.Struct, frozen=True):
    """§4.9."""

    message_id: int
    name: bytes
    new_rdn: bytes
    delete_old_rdn: bool
    new_superior: bytes | None = None
    controls: tuple[Control, ...] = ()


class CompareRequest(msgspec.Struct, frozen=True):
    """§4.10. ``attribute`` is the description as sent."""

    message_id: int
    name: bytes
    attribute: bytes
    value: bytes
    controls: tuple[Control, ...] = ()


class AbandonRequest(msgspec.Struct, frozen=True):
    """§4.11. No response."""

    message_id: int
    abandoned_id: int
    controls: tuple[Control, ...] = ()


class ExtendedRequest(msgspec.Struct, frozen=True):
    """§4.12. The value may hold a password (RFC 3062), so it never shows in a representation."""

    message_id: int
    oid: str
    value: bytes | None = None
    controls: tuple[Control, ...] = ()

    def __repr__(self) -> str:
        value = "None" if self.value is None else "***"
        rest = f"oid={self.oid!r}, value={value}, controls={self.controls!r}"
        return f"ExtendedRequest(message_id={self.message_id}, {rest})"


class UnknownRequest(msgspec.Struct, frozen=True):
    """A protocolOp that is no request of RFC 4511. §4.1.1: answered by the notice of disconnection."""

    message_id: int
    tag: int
    controls: tuple[Control, ...] = ()


Request = (
    BindRequest
    | UnbindRequest
    | SearchRequest
    | ModifyRequest
    | AddRequest
    | DeleteRequest
    | ModifyDNRequest
    | CompareRequest
    | AbandonRequest
    | ExtendedRequest
    | UnknownRequest
)


class Result(msgspec.Struct, frozen=True):
    """§4.1.9: a response that is an LDAPResult and nothing more. ``tag`` (:class:`rfc.Tag`) says of which operation."""

    message_id: int
    tag: int
    code: int
    matched_dn: bytes = b""
    diagnostic: str = ""
    referrals: tuple[bytes, ...] = ()
    controls: tuple[Control, ...] = ()


class BindResponse(msgspec.Struct, frozen=True):
    """§4.2.2."""

    message_id: int
    code: int
    matched_dn: bytes = b""
    diagnostic: str = ""
    referrals: tuple[bytes, ...] = ()
    server_sasl_credentials: bytes | None = None
    controls: tuple[Control, ...] = ()


class SearchEntry(msgspec.Struct, frozen=True):
    """§4.5.2: SearchResultEntry."""

    message_id: int
    name: bytes
    attributes: tuple[Attribute, ...]
    controls: tuple[Control, ...] = ()


class SearchReference(msgspec.Struct, frozen=True):
    """§4.5.3: SearchResultReference."""

    message_id: int
    uris: tuple[bytes, ...]
    controls: tuple[Control, ...] = ()


class ExtendedResponse(msgspec.Struct, frozen=True):
    """§4.12; with message id 0 an unsolicited notification (§4.4)."""

    message_id: int
    code: int
    matched_dn: bytes = b""
    diagnostic: str = ""
    referrals: tuple[bytes, ...] = ()
    oid: str | None = None
    value: bytes | None = None
    controls: tuple[Control, ...] = ()


class IntermediateResponse(msgspec.Struct, frozen=True):
    """§4.13."""

    message_id: int
    oid: str | None = None
    value: bytes | None = None
    controls: tuple[Control, ...] = ()


Response = Result | BindResponse | SearchEntry | SearchReference | ExtendedResponse | IntermediateResponse
