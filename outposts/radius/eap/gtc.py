"""The dialogue inside a tunnel: a name, a password, and what else the core wants to know (EAP-GTC, RFC 3748 §5.6).

TTLS and PEAP wrap the same dialogue in their own way, so here are inner types and data only. The order is a table::

    asked      Identity      GTC                    Nak             anything else
    name       → password    failure                failure         failure
    password   failure       decide: password       no method left  failure
    more       failure       decide: answer         failure         failure
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from outposts.radius.eap.packet import MAX_IDENTITY, EapType, text
from outposts.radius.eap.steps import Decide, Failed, MfaAnswer, PasswordLogin

MAX_PASSWORD = 512  # octets of a password or an answer: four times what a User-Password attribute can hold
MAX_PROMPT = 253  # octets of a prompt: one line of a supplicant's dialogue, and one Reply-Message where it is PAP
PASSWORD_PROMPT = "Password: "  # noqa: S105 (what the user is asked)


@dataclass(frozen=True, slots=True)
class Ask:
    """Put this request to the peer: an inner type and its data."""

    type: int
    data: bytes


class Asked(Enum):
    """What the peer was asked last."""

    NAME = "name"
    PASSWORD = "password"  # noqa: S105 (a state)
    MORE = "more"


class Dialogue:
    """One inner conversation. ``canonical`` makes the name for the flow of what the peer calls itself."""

    __slots__ = ("_canonical", "_outer", "asked", "username")

    def __init__(self, outer_identity: str, canonical: Callable[[str], str]) -> None:
        self._outer = outer_identity
        self._canonical = canonical
        self.asked = Asked.NAME
        self.username = ""

    def start(self) -> Ask:
        """The first request, for methods where the server opens."""
        return Ask(EapType.IDENTITY, b"")

    def receive(self, type: int, data: bytes) -> Ask | Decide | Failed:
        """The peer's inner response."""
        handler = _TABLE.get((self.asked, type))
        if handler is None:
            return Failed("inner_unexpected", f"inner type {type} where the {self.asked.value} was asked")
        return handler(self, data)

    def further(self, prompt: str) -> Ask:
        """The core has a question: put it."""
        self.asked = Asked.MORE
        return Ask(EapType.GTC, _shortened(prompt))

    def _name(self, data: bytes) -> Ask | Failed:
        name = text(data, MAX_IDENTITY)
        if name is None:
            return Failed("malformed_identity")
        self.username = self._canonical(name)
        if not self.username:
            return Failed("no_identity")
        self.asked = Asked.PASSWORD
        return Ask(EapType.GTC, PASSWORD_PROMPT.encode())

    def _password(self, data: bytes) -> Decide | Failed:
        typed = secret(data)
        if isinstance(typed, Failed):
            return typed
        return Decide(PasswordLogin(self.username, typed, interactive=True, outer_identity=self._outer))

    def _more(self, data: bytes) -> Decide | Failed:
        typed = secret(data)
        return typed if isinstance(typed, Failed) else Decide(MfaAnswer(typed))

    def _nak(self, data: bytes) -> Failed:
        wanted = ", ".join(str(number) for number in data[:8]) or "none"
        return Failed("no_common_inner_method", f"the peer wants inner types {wanted}")


_TABLE: dict[tuple[Asked, int], Callable[[Dialogue, bytes], Ask | Decide | Failed]] = {
    (Asked.NAME, EapType.IDENTITY): Dialogue._name,
    (Asked.PASSWORD, EapType.GTC): Dialogue._password,
    (Asked.PASSWORD, EapType.NAK): Dialogue._nak,
    (Asked.MORE, EapType.GTC): Dialogue._more,
}


def secret(data: bytes) -> str | Failed:
    """A password or answer as text. Zeros at the end are padding (RFC 5281 §11.2.5; some send a C string's end)."""
    stripped = data.rstrip(b"\0")
    typed = text(stripped, MAX_PASSWORD)
    if typed is None:
        return Failed("undecodable_password")
    return typed


def _shortened(prompt: str) -> bytes:
    """A prompt as octets, cut between characters. An empty one would be an empty request: say something."""
    return prompt.encode()[:MAX_PROMPT].decode(errors="ignore").encode() or b"Code: "
