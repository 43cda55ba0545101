"""Who is at the other end of a RadSec connection: from the certificate to the provider (RFC 6614 §2.3, §2.4).

The operator names, for each provider, what its clients' certificates hold. A fingerprint names one certificate, whoever
issued it; every other name counts only in a certificate whose issuer is trusted. The client's address says nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

FINGERPRINT = "sha256:"
PSK = "psk:"
ANYBODY = "*"  # whoever has a certificate of a trusted issuer
MAX_NAMES = 100  # names of one certificate that are looked at; certificates of clients have a handful

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a client has proved to be. ``names`` in the order in which they are looked up, the first is for logs."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return next((name for name in self.names if not name.startswith(FINGERPRINT)), self.names[0])


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, as names are written here."""
    return FINGERPRINT + certificate.fingerprint(hashes.SHA256()).hex()


def identity(certificate: x509.Certificate, *, trusted: bool) -> Identity:
    """What a certificate says of its holder. Without a trusted issuer it speaks only for itself.

    The common name counts only where there is no subject alternative name (RFC 6125 §6.4.4). Raises ``ValueError`` for
    a certificate that cannot be read.
    """
    names = [fingerprint(certificate)]
    if trusted:
        # What a certificate says must not pass for what only a handshake can show.
        said = [canonical(name) for name in _said(certificate)[:MAX_NAMES]]
        names += [name for name in said if name and not name.startswith((FINGERPRINT, PSK))]
        names.append(ANYBODY)
    return Identity(tuple(names))


def _said(certificate: x509.Certificate) -> list[str]:
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return [str(attribute.value) for attribute in found]
    return [
        *alternative.get_values_for_type(x509.DNSName),
        *map(str, alternative.get_values_for_type(x509.IPAddress)),
        *alternative.get_values_for_type(x509.UniformResourceIdentifier),
        *alternative.get_values_for_type(x509.RFC822Name),
    ]


def of_key(name: str) -> Identity:
    """What a pre-shared key says."""
    return Identity((PSK + name,))


def canonical(name: str) -> str:
    """A name as it is compared: letter case and the ways of writing a fingerprint or an address do not count.

    The name of a pre-shared key is compared as it is.
    """
    name = name.strip()
    if name.startswith(PSK):
        return name
    folded = name.lower()
    bare = folded.removeprefix(FINGERPRINT).replace(":", "")
    if _HEX.fullmatch(bare):
        return FINGERPRINT + bare
    try:
        return str(ipaddress.ip_address(folded))
    except ValueError:
        return folded.rstrip(".")


class Clients:
    """Which provider serves which client. Immutable; a refresh makes a new one."""

    def __init__(self, names_of: Iterable[tuple[int, Sequence[str]]] = ()) -> None:
        """(provider's ``pk``, names that the operator gave it), in ``pk`` order; the first of equal names counts."""
        known: dict[str, int] = {}
        self.twice: tuple[str, ...] = ()
        for pk, names in names_of:
            for name in names:
                wanted = canonical(name)
                if known.setdefault(wanted, pk) != pk:
                    self.twice += (wanted,)
        self._providers: Mapping[str, int] = known

    def __len__(self) -> int:
        return len(self._providers)

    def provider_of(self, client: Identity) -> int | None:
        """The provider of a client, by the most exact name that it has; None for a stranger."""
        for name in client.names:
            found = self._providers.get(name)
            if found is not None:
                return found
            if "." in name and not name.startswith((PSK, FINGERPRINT)):
                # ``*.example.org`` stands for exactly one label (RFC 6125 §6.4.3).
                found = self._providers.get("*." + name.partition(".")[2])
                if found is not None:
                    return found
        return None
