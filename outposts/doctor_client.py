"""``outposts doctor --user NAME --at HOST:PORT``: the login as a client's, to the listener of a running daemon.

An LDAP simple bind (RFC 4513 §5.1.3), or a RADIUS Access-Request with PAP (RFC 2865 §4.1) and Message-Authenticator.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any

from common.errors import OutpostError
from common.records import LDAPProvider, RadiusProvider
from common.setting_values import ListenAddress
from common.settings import Settings
from outposts.doctor_report import Report
from outposts.ldap import ber, client_wire
from outposts.ldap.entries import Kind
from outposts.ldap.messages import BindRequest, BindResponse, Simple, UnbindRequest
from outposts.ldap.providers import ProviderError, resolve
from outposts.ldap.rfc import ResultCode
from outposts.radius import wire
from outposts.radius.rfc import AUTHENTICATOR_SIZE, Attribute, Code

CONNECT_S = 5.0  # to a daemon nearby
ANSWER_S = 100.0  # a login may take 90 s (x_<type>_login_timeout), a push most of it
RADIUS_TRIES_S = (10.0, 10.0, 10.0)  # as switches do: the same packet again while no reply comes
MAX_REPLY = 65536  # bytes; a bind response has below a hundred
NAS_IDENTIFIER = b"outposts-doctor"
NEXT_LDAP = {
    ResultCode.INVALID_CREDENTIALS: "name or password is wrong, or the core refuses: the daemon's log has the reason",
    ResultCode.INSUFFICIENT_ACCESS_RIGHTS: "bind the user or a group to the application on the core",
    ResultCode.CONFIDENTIALITY_REQUIRED: "x_ldap_require_tls wants TLS, which --at does not speak: leave --at out",
    ResultCode.BUSY: "too many failed binds, or too many at once: wait (x_ldap_bind_failures)",
    ResultCode.UNAVAILABLE: "the daemon cannot ask the core: run doctor without --at, where the daemon runs",
}


class _Reply(asyncio.DatagramProtocol):
    """Hands on the first datagram."""

    def __init__(self) -> None:
        self.first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """A datagram came."""
        if not self.first.done():
            self.first.set_result(data)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there."""
        if not self.first.done():
            self.first.set_exception(exc)


async def login(
    report: Report,
    settings: Settings,
    config: dict[str, Any],
    provider: Any,
    at: ListenAddress,
    username: str,
    password: str,
) -> None:
    """Log in at a daemon's listener, and say what it answered."""
    name = f"{username} at {provider.name}, {at}"
    try:
        if isinstance(provider, LDAPProvider):
            extra = partial(_extra, settings, config, provider.name)
            await _bind(report, name, resolve(provider, extra).options.dn(Kind.USER, username), at, password)
        elif isinstance(provider, RadiusProvider):
            await _radius(report, name, provider.shared_secret.encode(), at, username, password)
    except ConnectionRefusedError:
        report.fail("login", f"{name}: nobody listens there", "--at: the daemon's LDAP or RADIUS address")
    except TimeoutError:
        advice = (
            "--at: is our address in the provider's client networks, is its secret the daemon's? The daemon's log and "
            "authentik_outpost_radius_dropped_total say why"
            if isinstance(provider, RadiusProvider)
            else "--at: the daemon's LDAP address, without TLS"
        )
        report.fail("login", f"{name}: no answer", advice)
    except (OSError, EOFError, ber.ProtocolError, wire.PacketError, ProviderError, ValueError) as error:
        problem = str(error) if isinstance(error, OutpostError) else type(error).__name__
        report.fail("login", f"{name}: no usable answer ({problem})", "--at: the daemon's LDAP address, without TLS")


def _extra(settings: Settings, config: dict[str, Any], provider_name: str, name: str) -> Any:
    return settings.extra("ldap", name, config, provider_name)


async def _bind(report: Report, name: str, dn: str, at: ListenAddress, password: str) -> None:
    async with asyncio.timeout(CONNECT_S):
        reader, writer = await asyncio.open_connection(at.host, at.port)
    try:
        writer.write(client_wire.encode_request(BindRequest(1, 3, dn.encode(), Simple(password.encode()))))
        received = b""
        async with asyncio.timeout(ANSWER_S):
            while (end := ber.frame_end(received, 0, MAX_REPLY)) <= 0 or end > len(received):
                part = await reader.read(MAX_REPLY)
                if not part:
                    raise EOFError
                received += part
        answer = client_wire.decode_response(received[:end])
        writer.write(client_wire.encode_request(UnbindRequest(2)))
    finally:
        writer.close()
    if not isinstance(answer, BindResponse):
        report.fail("login", f"{name}: the daemon ended the connection", "look at the daemon's log")
        return
    if answer.code == ResultCode.SUCCESS:
        report.ok("login", f"{name}: bound as {dn}")
        return
    code = ResultCode(answer.code)
    said = f": {answer.diagnostic}" if answer.diagnostic else ""
    report.fail(
        "login",
        f"{name}: {dn} refused, {code.name.lower()} ({answer.code}){said}",
        NEXT_LDAP.get(code, "look at the daemon's log"),
    )


async def _radius(report: Report, name: str, secret: bytes, at: ListenAddress, username: str, password: str) -> None:
    authenticator = os.urandom(AUTHENTICATOR_SIZE)
    request = wire.encode_request(
        Code.ACCESS_REQUEST,
        authenticator[0],
        secret,
        (
            (Attribute.USER_NAME, username.encode()),
            (Attribute.USER_PASSWORD, wire.hide_password(secret, authenticator, password.encode())),
            (Attribute.NAS_IDENTIFIER, NAS_IDENTIFIER),
        ),
        authenticator=authenticator,
    )
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(_Reply, remote_addr=(at.host, at.port))
    try:
        reply = await _answer(transport, protocol, request)
    finally:
        transport.close()
    packet = wire.verify_reply(reply, authenticator, secret)
    if packet.code == Code.ACCESS_ACCEPT:
        report.ok("login", f"{name}: Access-Accept")
    elif packet.code == Code.ACCESS_CHALLENGE:
        report.ok("login", f"{name}: Access-Challenge, a person would be asked for more")
    else:
        report.fail(
            "login", f"{name}: Access-Reject", "run doctor without --at for the reason, or look at the daemon's log"
        )


async def _answer(transport: asyncio.DatagramTransport, protocol: _Reply, request: bytes) -> bytes:
    """The first reply; the same packet is sent again while there is none. Raises ``TimeoutError``."""
    for wait_s in RADIUS_TRIES_S:
        transport.sendto(request)
        done, _ = await asyncio.wait({protocol.first}, timeout=wait_s)
        if done:
            return protocol.first.result()
    raise TimeoutError
