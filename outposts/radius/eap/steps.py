"""What an EAP session says and is told: plain values between ``session.py`` and whoever drives it.

A driver calls ``EapSession.receive`` with the joined EAP-Message and acts on the step: ``Send`` is an Access-Challenge,
``Succeed`` an Access-Accept with keys, ``Fail`` an Access-Reject, ``Ignore`` no reply at all. ``Decide`` asks for a
decision; the driver runs the core's flow and hands the outcome to ``EapSession.decided``, which gives the next step.
A driver that gets no decision (the core is away) discards the session and stays silent.

The second half of the file is the same between a session and its method: the session owns EAP's headers, identifiers
and limits, the method what comes after the type octet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """A name and a password, as typed (``password;code`` is not taken apart here).

    ``interactive``: the method can put further questions, so the decision may be ``Asked``. ``outer_identity`` is what
    the peer showed outside the tunnel: good for logs only.
    """

    username: str
    password: str = field(repr=False)
    interactive: bool
    outer_identity: str


@dataclass(frozen=True, slots=True)
class CertificateLogin:
    """A client certificate whose key the peer has proved to hold.

    ``identity`` is the name for the flow: the peer's Identity, or the certificate's common name where that is empty or
    anonymous. ``leaf_pem`` goes to the core; ``chain_pem`` is what else the peer sent. ``issuer_verified`` says whether
    the chain was verified against the configured issuers; without such issuers it is False.
    """

    identity: str
    leaf_pem: str = field(repr=False)
    chain_pem: tuple[str, ...] = field(repr=False)
    issuer_verified: bool


@dataclass(frozen=True, slots=True)
class MfaAnswer:
    """What the user typed at the prompt of the last ``Asked``."""

    text: str = field(repr=False)


Question = PasswordLogin | CertificateLogin | MfaAnswer


@dataclass(frozen=True, slots=True)
class Granted:
    """The core lets this user in."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The user is not let in; ``reason`` is a label for metrics and logs."""

    reason: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The core has a further question. A method that cannot ask (TTLS with PAP, EAP-TLS) fails as ``mfa_required``."""

    prompt: str


Decision = Granted | Refused | Asked


@dataclass(frozen=True, slots=True)
class Send:
    """An EAP Request: send it in an Access-Challenge with a fresh State."""

    eap: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Decide:
    """Nothing is sent before ``EapSession.decided`` has been called with the outcome."""

    question: Question


@dataclass(frozen=True, slots=True)
class Succeed:
    """EAP-Success: an Access-Accept.

    ``msk``: 64 octets; MS-MPPE-Recv-Key is made of octets 0–31, Send-Key of 32–63 (RFC 5216 §2.3). ``session_id``
    answers an EAP-Key-Name (RFC 5247). ``username`` is the name that was authenticated.
    """

    eap: bytes
    msk: bytes = field(repr=False)
    session_id: bytes
    username: str
    method: str


@dataclass(frozen=True, slots=True)
class Fail:
    """EAP-Failure: an Access-Reject. ``reason`` is a label; ``detail`` a text for the log without secrets."""

    eap: bytes
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ignore:
    """No reply. The State of the request stays valid: the right packet may still come."""

    reason: str


Step = Send | Decide | Succeed | Fail | Ignore


@dataclass(frozen=True, slots=True)
class Request:
    """A method's next request: the data after the type octet."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Finished:
    """A method has let the peer in. The fields are those of ``Succeed``."""

    msk: bytes = field(repr=False)
    session_id: bytes
    username: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A method is over and nobody is let in. The fields are those of ``Fail``."""

    reason: str
    detail: str = ""


MethodStep = Request | Decide | Finished | Failed


class Method(Protocol):
    """One authentication method in one session. Used by one thread at a time."""

    type: int
    name: str

    @property
    def is_shaking_hands(self) -> bool:
        """Whether it waits for the peer's machine in the middle of a handshake."""

    @property
    def gathered(self) -> int:
        """Octets of a flight of the peer whose end has not come."""

    @property
    def weight(self) -> int:
        """About how many octets it holds."""

    def start(self) -> Request:
        """The first request."""

    def receive(self, data: bytes) -> MethodStep:
        """The peer's response to the last request: the data after the type octet. Never raises for what a peer sent."""

    def decided(self, decision: Decision) -> MethodStep:
        """The outcome of the last ``Decide``."""

    def works_on(self, data: bytes) -> bool:
        """Whether receiving these data means cryptography, which takes a millisecond or more."""
