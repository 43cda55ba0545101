"""What all connections share (``Desk``), and what a connection needs of the parts around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from common.client_certificate import ClientCertificate
from outposts.ldap import routing
from outposts.ldap.auth import Authenticator, BindAnswer, Identity
from outposts.ldap.bound import BoundConnections
from outposts.ldap.messages import SearchRequest
from outposts.ldap.providers import Providers
from outposts.ldap.session import SessionLimits

if TYPE_CHECKING:
    from outposts.ldap.connection import Connection


class Wire(Protocol):
    """What a connection needs of its socket (``server.Wire``)."""

    def send(self, data: bytes) -> None:
        """Write; more than the client reads is kept, then ``Connection.blocked`` is called."""

    def pause_reading(self) -> None:
        """Read no more for now."""

    def resume_reading(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Close when everything is written."""

    def abort(self) -> None:
        """Close at once."""

    def start_tls(self) -> None:
        """Encrypt from here on; what was sent before goes out in the clear."""

    def client_certificate(self) -> ClientCertificate | None:
        """What the client showed in the TLS handshake, its issuer not yet looked at; None without one."""


class Observer(Protocol):
    """Where finished requests are counted and logged (``observe.Observations``). ``started``: ``time.monotonic``."""

    def bind(self, client_ip: str, name: bytes, answer: BindAnswer, started: float) -> None:
        """A bind was answered."""

    def search(
        self, client_ip: str, identity: Identity | None, request: SearchRequest, result: routing.Result, started: float
    ) -> None:
        """A search was answered."""

    def known_bind(self, client_ip: str, data: bytes, answer: BindAnswer, started: float) -> None:
        """A bind was answered without decoding ``data``, its whole message."""

    def prepared_search(
        self, client_ip: str, identity: Identity, data: bytes, count: int, app: str, started: float
    ) -> None:
        """A search was answered without decoding ``data``, its whole message."""

    def other(self, client_ip: str, kind: str, identity: Identity | None, code: int, started: float) -> None:
        """Any other request was answered."""


@dataclass
class Desk:
    """What all connections share. ``providers`` is replaced at each refresh. Times of ``Limits`` in seconds."""

    authenticator: Authenticator
    searches: routing.Searches
    bound: BoundConnections[Connection, Identity]
    observer: Observer
    limits: SessionLimits
    providers: Providers
    max_requests: int = 100
    max_followers: int = 10  # of one connection
