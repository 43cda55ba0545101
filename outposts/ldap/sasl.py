"""SASL for LDAP (RFC 4513 §5.2): PLAIN (RFC 4616) and EXTERNAL (RFC 4422 appendix A), both of a single message.

Neither has a second step, so a bind is never left half-way: there is no state between messages that somebody could
confuse. Both need an encrypted connection: PLAIN for the password's sake, EXTERNAL because the certificate is TLS'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from outposts.ldap.dn import DN, DNError

PLAIN: Final = "PLAIN"
EXTERNAL: Final = "EXTERNAL"


@dataclass(frozen=True, slots=True)
class Plain:
    """What a PLAIN message says. ``authorization_id`` is empty when the client asks for nobody in particular."""

    authorization_id: str
    authentication_id: str
    password: bytes = field(repr=False)


def parse_plain(credentials: bytes | None) -> Plain | None:
    """RFC 4616 §2: ``[authzid] NUL authcid NUL passwd``, UTF-8, exactly two NULs, name and password not empty."""
    parts = (credentials or b"").split(b"\0")
    if len(parts) != 3 or not parts[1] or not parts[2]:
        return None
    try:
        return Plain(parts[0].decode(), parts[1].decode(), parts[2])
    except UnicodeDecodeError:
        return None


def name_of(identity: str) -> bytes | None:
    """The bind name inside an authorization identity (RFC 4513 §5.2.1.8: ``dn:…`` or ``u:…``); None for other forms."""
    kind, separator, value = identity.partition(":")
    if not separator or kind.lower() not in ("dn", "u") or not value:
        return None
    return value.encode()


def same_identity(wanted: str, dn: str, username: str, proved: tuple[str, bytes] | None = None) -> bool:
    """Whether an authorization identity is the one that was authenticated: nobody may act for somebody else.

    ``wanted`` empty asks for no one in particular. ``dn`` and ``username`` are the core's for the session's user.
    ``proved``: the user name that a password was proved for, and its name in the form that is compared (``DN.key``).
    """
    if not wanted:
        return True
    kind, _, value = wanted.partition(":")
    kind = kind.lower()
    if kind == "u":
        return value == username or (proved is not None and value == proved[0])
    if kind != "dn":
        return False
    try:
        key = DN.parse(value).key
        return key == DN.parse(dn).key or (proved is not None and key == proved[1])
    except DNError:
        return False


def mechanisms(*, encrypted: bool, certificate: bool, external: bool) -> tuple[str, ...]:
    """What the root DSE offers on a connection (RFC 4513 §5.2.1.6).

    ``certificate``: the client has shown one; ``external``: some provider takes them.
    """
    if not encrypted:
        return ()
    return (PLAIN, EXTERNAL) if certificate and external else (PLAIN,)
