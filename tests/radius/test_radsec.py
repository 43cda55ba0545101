"""RadSec (RFC 6614): who is let in, framing, order, ends; RADIUS/1.1 (RFC 9765) through ALPN."""

from __future__ import annotations

import asyncio
import io
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from common import logs, metrics
from common.errors import StartError
from common.setting_values import ListenAddress
from common.tls import CertificatePair
from outposts.radius import das, radius11, radsec_connection, radsec_tls
from outposts.radius.providers import Providers, RadiusProvider
from outposts.radius.radsec import Limits, bare
from outposts.radius.radsec_clients import Clients, Identity, canonical, identity, of_key
from outposts.radius.radsec_stream import Numbers, Stream
from outposts.radius.radsec_tls import NO_PSK, psk_context, read_keys
from outposts.radius.rfc import RADSEC_SECRET, Attribute, Code, ErrorCause
from outposts.radius.wire import PacketError, decode, encode_reply, encode_request, verify_reply
from tests.certificates import authority, key_pair
from tests.radius.packets import REQUESTS
from tests.radius.radsec_peer import WAIT_S, Bench, Client, issue, revocation_list

STATUS = Code.STATUS_SERVER


def request(identifier: int = 1, code: Code = STATUS, *rows: tuple[int, bytes]) -> bytes:
    """A signed request."""
    authenticator = None if code in (4, 40, 43) else os.urandom(16)
    return encode_request(code, identifier, RADSEC_SECRET, rows, authenticator=authenticator)


def closed_for(reason: str) -> float:
    """How many connections were closed for a reason."""
    return float(metrics.radsec_closed.labels(reason)._value.get())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the loop will bring."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - the server tells nobody when it is so
            await asyncio.sleep(0.002)


async def gone(bench: Bench) -> None:
    """The server has let go of all connections."""
    await until(lambda: not bench.server.connections)


# -- framing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 19, 20, 21, 4096])
def test_packets_come_out_whatever_the_pieces(size: int) -> None:
    """All recorded requests in one stream, cut into pieces of any size."""
    stream, found = Stream(), []
    octets = b"".join(REQUESTS)
    for at in range(0, len(octets), size):
        found += stream.receive(octets[at : at + size])
    assert found == REQUESTS and len(stream) == 0


@pytest.mark.parametrize("length", [0, 1, 10, 19, 4097, 65535])
def test_r59_length_out_of_bounds_is_the_end_of_the_stream(length: int) -> None:
    """As soon as the four octets are there, and for good."""
    stream = Stream()
    assert stream.receive(b"\x01\x01" + length.to_bytes(2, "big")[:1]) == []
    with pytest.raises(PacketError, match="bad_length"):
        stream.receive(length.to_bytes(2, "big")[1:])
    with pytest.raises(PacketError, match="bad_length"):
        stream.receive(REQUESTS[0])
    assert len(stream) == 0


@given(some.lists(some.binary(max_size=300), max_size=20))
def test_a_stream_of_noise_gives_packets_or_the_error_and_keeps_little(pieces: list[bytes]) -> None:
    """No other exception; never more than a packet waits."""
    stream = Stream()
    try:
        for piece in pieces:
            for packet in stream.receive(piece):
                assert len(packet) == int.from_bytes(packet[2:4], "big")
            assert len(stream) < 4096
    except PacketError:
        assert len(stream) == 0


def test_numbers_are_256_and_go_round() -> None:
    """A number that is free again is not the next one."""
    numbers = Numbers()
    taken = [numbers.take() for _ in range(256)]
    assert sorted(number for number in taken if number is not None) == list(range(256))
    assert numbers.take() is None
    numbers.free(7)
    assert numbers.take() == 7
    numbers.free(0)
    numbers.free(9)
    assert numbers.take() == 9


# -- clients -----------------------------------------------------------------------------------------------------------


def test_clients_by_what_their_certificate_holds(tmp_path: Path) -> None:
    """The most exact name counts; letter case and ways of writing do not."""
    root = authority()
    one = issue(root, "x", dns=["AP1.Example.org"], ip=["192.0.2.7"], uri=["urn:ap:1"]).certificate
    plain = issue(root, "Plain.Example.net").certificate
    known = identity(one, trusted=True)
    print_ = known.names[0]
    assert print_.startswith("sha256:") and str(known) == "ap1.example.org"
    colons = print_.removeprefix("sha256:")
    written = ":".join(colons[at : at + 2] for at in range(0, 64, 2)).upper()
    for names, expected in (
        ([(1, [written]), (2, ["ap1.example.org"])], 1),
        ([(1, ["*"]), (2, ["ap1.EXAMPLE.org."])], 2),
        ([(1, ["192.0.2.7"])], 1),
        ([(1, ["urn:ap:1"])], 1),
        ([(1, ["*.example.org"])], 1),
        ([(1, ["*.org"])], None),
        ([(1, ["*"])], 1),
        ([(1, ["x"])], None),  # a common name beside alternative names says nothing
        ([], None),
    ):
        assert Clients(names).provider_of(known) == expected, names
    assert Clients([(1, ["plain.example.net"])]).provider_of(identity(plain, trusted=True)) == 1


def test_without_a_trusted_issuer_only_the_fingerprint_counts() -> None:
    """Anybody can write a name into a certificate."""
    stranger = identity(issue(authority(), "x", dns=["ap1.example.org"]).certificate, trusted=False)
    assert len(stranger.names) == 1
    assert Clients([(1, ["ap1.example.org", "*"])]).provider_of(stranger) is None
    assert Clients([(1, [stranger.names[0]])]).provider_of(stranger) == 1


def test_a_certificate_cannot_pass_for_a_key_or_another_certificate() -> None:
    """Names that only a handshake can show are not taken from a certificate."""
    other = "sha256:" + "0" * 64
    forged = identity(issue(authority(), "x", uri=["psk:ap1", other]).certificate, trusted=True)
    clients = Clients([(1, ["psk:ap1"]), (2, [other])])
    assert clients.provider_of(forged) is None
    assert clients.provider_of(of_key("ap1")) == 1
    assert clients.provider_of(of_key("AP1")) is None


def test_a_name_for_two_providers_is_said() -> None:
    """The first counts."""
    clients = Clients([(1, ["a.example"]), (2, ["A.example", "b.example"])])
    assert clients.twice == ("a.example",)
    assert clients.provider_of(Identity(("a.example",))) == 1
    assert canonical(" [::1] ") == "[::1]" and canonical("2001:DB8::1") == "2001:db8::1"


def test_addresses_as_the_core_is_told_them() -> None:
    """Unmapped, without scope."""
    assert [bare(host) for host in ("::ffff:192.0.2.1", "fe80::1%eth0", "192.0.2.1")] == [
        "192.0.2.1",
        "fe80::1",
        "192.0.2.1",
    ]


# -- connections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_known_client_is_served(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Request and reply under the secret of RFC 6614, whatever secret the provider has."""
    bench = await Bench(tmp_path).start()
    client = await bench.connect(version=version)
    octets = request(9)
    client.send(octets)
    reply = verify_reply(await client.receive(), octets[4:20], RADSEC_SECRET)
    assert (reply.code, reply.identifier) == (Code.ACCESS_ACCEPT, 9)
    assert client.alpn is None
    provider = bench.desk.providers[0]
    assert (provider.pk, provider.require_message_authenticator) == (7, "no")
    client.send(request(10))
    await client.receive()
    assert bench.desk.providers[1] is provider, "copies of packets are known by the provider that they came to"
    await client.close()
    await bench.close()


async def test_r59_strangers_are_closed(tmp_path: Path) -> None:
    """Another issuer, another name, no certificate at all: no packet of theirs is looked at."""
    bench = await Bench(tmp_path).start()
    foreign = issue(authority("other"), "ap1", dns=["ap1.example.org"])
    unnamed = issue(bench.office.root, "ap9", dns=["ap9.example.org"])
    for stranger in (foreign, unnamed, bench.office.root.issue(["ap1.example.org"], days=(-3, -1))):
        client = await bench.connect(stranger)
        client.send(request())
        assert await client.closed()
        await client.close()
    context = bench.office.context(None, version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await Client.connect(bench.port, context)
    await gone(bench)
    assert not bench.desk.packets
    await bench.close()


async def test_a_fingerprint_needs_no_issuer(tmp_path: Path) -> None:
    """RFC 6614 §2.3: a self-signed certificate that the operator has named."""
    bench = Bench(tmp_path)
    own = authority("self")
    bench.names = {"wifi": (identity(own.certificate, trusted=False).names[0].upper(),)}
    await bench.start(ca_path="")
    client = await bench.connect(own)
    client.send(request())
    assert (await client.receive())[0] == Code.ACCESS_ACCEPT
    await client.close()
    other = await bench.connect(authority("self"))
    assert await other.closed()
    await other.close()
    await bench.close()


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"\x01\x01\x00\x0a" + bytes(6), "bad_length"),
        (b"\x01\x01\x10\x01" + bytes(16), "bad_length"),
    ],
)
async def test_r59_broken_framing_closes_the_connection(tmp_path: Path, octets: bytes, reason: str) -> None:
    """Length 10, Length 4097; what was answered before stays answered."""
    bench = await Bench(tmp_path).start()
    before = closed_for(reason)
    client = await bench.connect()
    client.send(request())
    await client.receive()
    client.send(octets)
    assert await client.closed()
    await client.close()
    await gone(bench)
    assert closed_for(reason) == before + 1
    await bench.close()


@pytest.mark.parametrize("reason", sorted(radsec_connection.BROKEN))
async def test_what_only_a_broken_client_sends_closes_the_connection(tmp_path: Path, reason: str) -> None:
    """RFC 6613 §2.6.4: attributes, authenticators."""
    bench = await Bench(tmp_path).start()
    bench.desk.drops = reason
    client = await bench.connect()
    client.send(request())
    assert await client.closed()
    await client.close()
    await bench.close()


@pytest.mark.parametrize("reason", ["code", "no_message_authenticator", "status_rate"])
async def test_other_drops_leave_the_connection(tmp_path: Path, reason: str) -> None:
    """Silence is an answer too."""
    bench = await Bench(tmp_path).start()
    bench.desk.drops = reason
    client = await bench.connect()
    client.send(request())
    bench.desk.drops = ""
    await asyncio.sleep(0)
    client.send(request(2))
    assert (await client.receive())[1] in (1, 2)
    await client.close()
    await bench.close()


async def test_answers_go_out_in_the_order_in_which_they_are_ready(tmp_path: Path) -> None:
    """256 requests with 256 numbers, answered backwards."""
    bench = await Bench(tmp_path).start()
    bench.desk.hold = True
    client = await bench.connect()
    client.send(*(request(number) for number in range(256)))
    await bench.desk.until(256)
    for packet, line in reversed(bench.desk.held):
        bench.desk.reply(packet, line)
    assert [(await client.receive())[1] for _ in range(256)] == list(range(255, -1, -1))
    await client.close()
    await bench.close()


async def test_more_than_may_be_open_waits(tmp_path: Path) -> None:
    """Nothing is dropped: reading pauses, and goes on with each answer."""
    bench = await Bench(tmp_path).start(Limits(max_outstanding=4))
    bench.desk.hold = True
    client = await bench.connect()
    client.send(*(request(number) for number in range(200)))
    await bench.desk.until(4)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(bench.desk.packets) == 4
    bench.desk.hold = False
    for packet, line in bench.desk.held:
        bench.desk.reply(packet, line)
    answered = {(await client.receive())[1] for _ in range(200)}
    assert len(answered) == 200
    await client.close()
    await bench.close()


@pytest.mark.parametrize("alpn", ["radius/1.0", "radius/1.1"])
async def test_requests_that_meet_silence_make_room(tmp_path: Path, alpn: str) -> None:
    """A core that is away must not fill a connection with requests that nobody works on."""
    bench = await Bench(tmp_path).start(Limits(max_outstanding=4))
    bench.desk.hold = True
    client = await bench.connect(alpn=[alpn])
    older = alpn == "radius/1.0"
    client.send(*(request(one) if older else radius11.encode(STATUS, bytes((0, 0, 0, one)), ()) for one in range(12)))
    for count in range(12):
        await bench.desk.until(count + 1)
        bench.desk.silence(bench.desk.held[count][1])
    (connection,) = bench.server.connections
    assert not connection.busy
    await client.close()
    await bench.close()


async def test_a_lost_connection_takes_nothing_back(tmp_path: Path) -> None:
    """The answer goes nowhere, and harms nobody."""
    bench = await Bench(tmp_path).start()
    bench.desk.hold = True
    client = await bench.connect()
    client.send(request())
    await bench.desk.until(1)
    await client.close()
    await gone(bench)
    ((packet, line),) = bench.desk.held
    bench.desk.reply(packet, line)
    await bench.close()


async def test_silence_ends_a_connection_and_work_does_not(tmp_path: Path) -> None:
    """Five minutes by default; a request that is open counts as life."""
    bench = await Bench(tmp_path).start()
    bench.desk.hold = True
    client = await bench.connect()
    client.send(request())
    await bench.desk.until(1)
    (connection,) = bench.server.connections
    bench.now += 301
    connection._open.clear()
    connection._open.append(bench.now)
    connection.sweep(bench.now)
    assert not connection.closing
    bench.desk.reply(*bench.desk.held[0])
    await client.receive()
    connection.sweep(bench.now)
    assert await client.closed()
    await client.close()
    await bench.close()


async def test_a_handshake_that_does_not_come_is_cut(tmp_path: Path) -> None:
    """Ten seconds by default."""
    bench = await Bench(tmp_path).start(Limits(handshake_timeout=0.05))
    before = closed_for("handshake_timeout")
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    assert await reader.read() == b""
    writer.close()
    assert closed_for("handshake_timeout") == before + 1
    await bench.close()


async def test_a_client_that_does_not_read_is_cut(tmp_path: Path) -> None:
    """It gets no further answers, and is given up after a while."""
    bench = await Bench(tmp_path).start()
    bench.desk.attributes = ((Attribute.REPLY_MESSAGE, b"x" * 250),) * 14
    client = await bench.connect()
    client.writer.transport.pause_reading()
    (connection,) = bench.server.connections
    while connection.blocked_since is None:
        client.send(*(request(number % 256) for number in range(256)))
        for _ in range(20):
            await asyncio.sleep(0)
    assert len(connection._waiting) < 20_000
    connection.sweep(bench.now + radsec_connection.WRITE_TIMEOUT_S + 1)
    await gone(bench)
    client.writer.transport.abort()
    await bench.close()


async def test_connections_are_counted(tmp_path: Path) -> None:
    """By address and in all; one that ends makes room."""
    bench = await Bench(tmp_path).start(Limits(max_connections_per_address=2))
    first, second = await bench.connect(), await bench.connect()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await bench.connect()
    await first.close()
    await until(lambda: len(bench.server.connections) == 1)
    third = await bench.connect()
    third.send(request())
    await third.receive()
    await second.close()
    await third.close()
    await bench.close()
    assert not bench.server._per_address


async def test_accounting_that_is_off_is_refused_aloud(tmp_path: Path) -> None:
    """One port for everything: the client learns that it need not send more."""
    bench = await Bench(tmp_path).start()
    bench.desk.drops = "accounting_off"
    client = await bench.connect()
    octets = request(3, Code.ACCOUNTING_REQUEST, (Attribute.ACCT_STATUS_TYPE, b"\0\0\0\1"))
    client.send(octets)
    reply = verify_reply(await client.receive(), octets[4:20], RADSEC_SECRET)
    assert reply.code == Code.ACCOUNTING_RESPONSE
    assert reply.first(Attribute.ERROR_CAUSE) == int(ErrorCause.UNSUPPORTED_EXTENSION).to_bytes(4, "big")
    await client.close()
    await bench.close()


@pytest.mark.parametrize(
    ("code", "nak"), [(Code.COA_REQUEST, Code.COA_NAK), (Code.DISCONNECT_REQUEST, Code.DISCONNECT_NAK)]
)
async def test_clients_cannot_disconnect_others(tmp_path: Path, code: Code, nak: Code) -> None:
    """Refused with a NAK; one that is not signed closes the connection."""
    bench = await Bench(tmp_path).start()
    client = await bench.connect()
    octets = request(3, code)
    client.send(octets)
    reply = verify_reply(await client.receive(), octets[4:20], RADSEC_SECRET)
    assert reply.code == nak
    client.send(octets[:4] + bytes(16) + octets[20:])
    assert await client.closed()
    assert not bench.desk.packets
    await client.close()
    await bench.close()


# -- reload ------------------------------------------------------------------------------------------------------------


async def test_renewed_certificate_serves_the_next_client(tmp_path: Path) -> None:
    """Whoever is connected stays."""
    bench = await Bench(tmp_path).start()
    first = await bench.connect()
    renewed = bench.office.root.issue(["radius.example.org"], purposes=())
    bench.pairs[:] = [("", CertificatePair("new", "", renewed.pem, renewed.key_pem))]
    second = await bench.connect()
    shown = [one.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"] for one in (first, second)]
    assert int(shown[0], 16) == bench.office.server.certificate.serial_number
    assert int(shown[1], 16) == renewed.certificate.serial_number
    first.send(request())
    await first.receive()
    await first.close()
    await second.close()
    await bench.close()


async def test_without_a_certificate_nobody_is_served(tmp_path: Path) -> None:
    """And with one that comes later, everybody is."""
    bench = Bench(tmp_path)
    pair = bench.pairs.pop()
    await bench.start()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await bench.connect()
    bench.pairs.append(pair)
    client = await bench.connect()
    client.send(request())
    await client.receive()
    await client.close()
    await bench.close()


async def test_revoked_client_is_refused_and_connected_ones_come_again(tmp_path: Path) -> None:
    """The list stands in the file of the issuers; a change of that file ends the connections it has let in."""
    bench = await Bench(tmp_path).start()
    good = issue(bench.office.root, "ap2", dns=["ap2.example.org"])
    bench.names = {"wifi": ("*.example.org",)}
    bench.configure()
    connected = await bench.connect()
    bench.office.ca.write_text(bench.office.root.pem + revocation_list(bench.office.root, bench.office.client))
    other = await bench.connect(good)
    assert await connected.closed()
    await connected.close()
    again = await bench.connect(good)
    again.send(request())
    await again.receive()
    refused = await bench.connect()
    assert await refused.closed()
    for one in (refused, other, again):
        await one.close()
    await bench.close()


async def test_issuers_that_cannot_be_read_leave_the_last_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the middle of being replaced does not lock everybody out, and does not let anybody in."""
    bench = await Bench(tmp_path).start()
    bench.office.ca.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    client = await bench.connect()
    client.send(request())
    await client.receive()
    stranger = await bench.connect(issue(authority(), "x", dns=["ap1.example.org"]))
    assert await stranger.closed()
    await client.close()
    await stranger.close()
    await bench.close()


async def test_client_that_is_taken_away_is_disconnected(tmp_path: Path) -> None:
    """By the operator, or because its provider is gone; one whose provider has changed is served with the new one."""
    bench = await Bench(tmp_path).start()
    client = await bench.connect()
    bench.providers = Providers([RadiusProvider(7, "wifi", "wifi", "other-flow", b"other")])
    bench.configure()
    client.send(request())
    await client.receive()
    assert bench.desk.providers[-1].flow_slug == "other-flow"
    bench.names = {}
    bench.configure()
    assert await client.closed()
    await client.close()
    await bench.close()


# -- requests of ours --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpn", ["radius/1.0", "radius/1.1"])
async def test_r32_disconnect_request_goes_down_the_connection(tmp_path: Path, alpn: str) -> None:
    """And its answer comes back up, in both versions."""
    bench = await Bench(tmp_path).start()
    client = await bench.connect(alpn=[alpn])
    (connection,) = bench.server.connections
    await until(lambda: connection.who is not None)
    asking = asyncio.ensure_future(
        bench.server.ask(7, ("127.0.0.1", 1), Code.DISCONNECT_REQUEST, ((int(Attribute.USER_NAME), b"alice"),), 1.7e9)
    )
    octets = await client.receive()
    packet = decode(octets)
    assert packet.code == Code.DISCONNECT_REQUEST and packet.first(Attribute.USER_NAME) == b"alice"
    if alpn == "radius/1.1":
        assert octets[1] == 0 and octets[8:20] == bytes(12)
        assert packet.first(Attribute.MESSAGE_AUTHENTICATOR) is None
        client.send(bytes([Code.DISCONNECT_ACK, 0, 0, 20]) + octets[4:8] + bytes(12))
    else:
        client.send(encode_reply(packet, RADSEC_SECRET, Code.DISCONNECT_ACK, ()))
    assert await asking == das.Result(das.Verdict.DONE)
    assert not connection._asked and len(connection._numbers) == 0
    await client.close()
    await bench.close()


async def test_requests_of_ours_end_with_the_connection(tmp_path: Path) -> None:
    """Nobody waits for an answer that cannot come; without a connection there is nobody to ask."""
    bench = await Bench(tmp_path).start()
    client = await bench.connect()
    (connection,) = bench.server.connections
    await until(lambda: connection.who is not None)
    asking = asyncio.ensure_future(bench.server.ask(7, ("127.0.0.1", 1), Code.DISCONNECT_REQUEST, (), 0))
    await client.receive()
    await client.close()
    assert await asking is None
    assert await bench.server.ask(7, ("127.0.0.1", 1), Code.DISCONNECT_REQUEST, (), 0) is None
    await bench.close()


async def test_client_that_says_nothing_to_a_request_of_ours(tmp_path: Path) -> None:
    """No repetition below TLS, and an end."""
    bench = await Bench(tmp_path).start()
    client = await bench.connect()
    (connection,) = bench.server.connections
    await until(lambda: connection.who is not None)
    result = await connection.ask(Code.DISCONNECT_REQUEST, (), 0, 0.05)
    assert result == das.Result(das.Verdict.NO_ANSWER)
    await client.receive()
    client.send(bytes([Code.DISCONNECT_ACK, 0, 0, 20]) + bytes(16))
    client.send(request())
    assert (await client.receive())[0] == Code.ACCESS_ACCEPT, "a late answer is nobody's"
    await client.close()
    await bench.close()


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("versions", "offered", "tls", "expected"),
    [
        (("1.0", "1.1"), ["radius/1.1", "radius/1.0"], ssl.TLSVersion.TLSv1_3, "radius/1.1"),
        (("1.0", "1.1"), ["radius/1.0", "radius/1.1"], ssl.TLSVersion.TLSv1_3, "radius/1.1"),
        (("1.0", "1.1"), ["radius/1.1", "radius/1.0"], ssl.TLSVersion.TLSv1_2, "radius/1.0"),
        (("1.0", "1.1"), ["radius/1.0"], ssl.TLSVersion.TLSv1_3, "radius/1.0"),
        (("1.0",), ["radius/1.1", "radius/1.0"], ssl.TLSVersion.TLSv1_3, "radius/1.0"),
        (("1.1",), ["radius/1.1"], ssl.TLSVersion.TLSv1_3, "radius/1.1"),
    ],
)
async def test_version_that_both_have(
    tmp_path: Path, versions: tuple[str, ...], offered: list[str], tls: ssl.TLSVersion, expected: str
) -> None:
    """RFC 9765 §3.3, and §3.4: 1.1 needs TLS 1.3."""
    bench = await Bench(tmp_path).start(versions=versions)
    client = await bench.connect(alpn=offered, version=tls)
    assert client.alpn == expected
    await client.close()
    await bench.close()


@pytest.mark.parametrize(
    ("versions", "offered", "tls"),
    [
        (("1.1",), ["radius/1.0"], ssl.TLSVersion.TLSv1_3),
        (("1.0",), ["radius/1.1"], ssl.TLSVersion.TLSv1_3),
        (("1.0", "1.1"), ["http/1.1"], ssl.TLSVersion.TLSv1_3),
        (("1.0", "1.1"), ["radius/1.1"], ssl.TLSVersion.TLSv1_2),
    ],
)
async def test_no_version_in_common_is_an_alert(
    tmp_path: Path, versions: tuple[str, ...], offered: list[str], tls: ssl.TLSVersion
) -> None:
    """no_application_protocol (RFC 7301 §3.2)."""
    bench = await Bench(tmp_path).start(versions=versions)
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        await bench.connect(alpn=offered, version=tls)
    await gone(bench)
    await bench.close()


async def test_client_without_alpn_where_1_1_is_asked_for(tmp_path: Path) -> None:
    """Closed: RFC 9765 §3.3 "Close-S"."""
    bench = await Bench(tmp_path).start(versions=("1.1",))
    client = await bench.connect()
    assert await client.closed()
    await client.close()
    await bench.close()


# -- pre-shared keys ---------------------------------------------------------------------------------------------------


def test_keys_of_a_file() -> None:
    """Names and keys; a fault names the line and never the key."""
    assert read_keys("# comment\n\nap1 " + "00" * 16 + "\nap2\t" + "ff" * 32) == {"ap1": bytes(16), "ap2": b"\xff" * 32}
    for text in ("ap1", "ap1 xyz", "ap1 " + "00" * 15, f"{'n' * 129} " + "00" * 16, f"a {'00' * 16}\na {'11' * 16}"):
        with pytest.raises(ValueError, match=r"^line \d: ") as caught:
            read_keys(text)
        assert "00" not in str(caught.value)


async def test_where_python_has_no_keys_the_listener_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence instead of a daemon that listens and serves nobody."""
    monkeypatch.setattr(radsec_tls, "psk_offered", lambda: False)
    monkeypatch.setattr("outposts.radius.radsec.psk_offered", lambda: False)
    bench = Bench(tmp_path)
    with pytest.raises(StartError, match=r"Python 3\.13"):
        await bench.server.listen_psk(ListenAddress("127.0.0.1", 0))
    with pytest.raises(Exception, match=NO_PSK[:20]):
        psk_context(dict, ())


async def test_keys_are_needed_for_the_listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is missing or wrong stops the start."""
    monkeypatch.setattr("outposts.radius.radsec.psk_offered", lambda: True)
    bench = Bench(tmp_path)
    with pytest.raises(StartError, match="OUTPOSTS_RADSEC__PSK_FILE"):
        await bench.server.listen_psk(ListenAddress("127.0.0.1", 0))
    path = tmp_path / "keys"
    path.write_text("ap1 short")
    bench.configure(psk_file=str(path))
    with pytest.raises(StartError, match="line 1"):
        await bench.server.listen_psk(ListenAddress("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("name", "key", "alpn"),
    [
        ("ap1", b"k" * 16, ["radius/1.1", "radius/1.0"]),
        ("ap1", b"k" * 16, []),
        ("ap1", b"x" * 16, []),
        ("ap9", b"k" * 16, []),
    ],
    ids=["right, 1.1", "right, 1.0", "wrong key", "unknown name"],
)
async def test_client_with_a_key(tmp_path: Path, name: str, key: bytes, alpn: list[str]) -> None:
    """From Python 3.13 on a key lets its client in, and nothing else does; before, nobody listens."""
    bench = Bench(tmp_path)
    bench.names = {"wifi": ("psk:ap1",)}
    path = tmp_path / "keys"
    path.write_text("ap1 " + (b"k" * 16).hex())
    bench.configure(psk_file=str(path))
    if not radsec_tls.psk_offered():
        with pytest.raises(StartError, match=r"Python 3\.13"):
            await bench.server.listen_psk(ListenAddress("127.0.0.1", 0))
        return
    ((_, _, port),) = await bench.server.listen_psk(ListenAddress("127.0.0.1", 0))
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("PSK")
    context.set_psk_client_callback(lambda hint: (name, key))
    if alpn:
        context.set_alpn_protocols(alpn)
    if (name, key) != ("ap1", b"k" * 16):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await Client.connect(port, context)
        assert not bench.desk.packets
    else:
        client = await Client.connect(port, context)
        octets = request() if not alpn else radius11.encode(STATUS, b"tokn", ())
        client.send(octets)
        reply = await client.receive()
        assert reply[0] == Code.ACCESS_ACCEPT
        assert (reply[4:8] == b"tokn") == bool(alpn)
        await client.close()
    await bench.close()


def test_self_signed_pairs_of_tests_are_what_they_say() -> None:
    """A guard for the tests above: a self-signed certificate is not one of the authority's."""
    assert key_pair("a").fingerprint != key_pair("a").fingerprint


# -- strangers ---------------------------------------------------------------------------------------------------------


async def test_handshakes_leave_the_loop_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches the port may begin one: others are served meanwhile."""
    threads: list[str] = []
    real = radsec_tls._step

    def noted(*arguments: Any) -> bool:
        threads.append(threading.current_thread().name)
        return real(*arguments)

    monkeypatch.setattr(radsec_tls, "_step", noted)
    bench = await Bench(tmp_path).start()
    client = await bench.connect()
    client.send(request())
    assert (await client.receive())[0] == Code.ACCESS_ACCEPT
    assert threads and all(name.startswith("radsec") for name in threads)
    await client.close()
    await bench.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_handshake_in_pieces(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """One octet at a time, and a request together with the last piece."""
    bench = await Bench(tmp_path).start()
    context = bench.office.context(bench.office.client, version=version)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
    done = False
    while not done:
        try:
            tls.do_handshake()
            done = True
            tls.write(request())
        except ssl.SSLWantReadError:
            pass
        octets = outgoing.read()
        for at in range(len(octets)):
            writer.write(octets[at : at + 1])
            if at % 100 == 0:
                await asyncio.sleep(0)
        if not done:
            incoming.write(await asyncio.wait_for(reader.read(65_536), WAIT_S))
    await bench.desk.until(1)
    writer.close()
    await bench.close()


async def test_a_client_that_leaves_in_its_handshake(tmp_path: Path) -> None:
    """While a thread works for it."""
    bench = await Bench(tmp_path).start()
    for _ in range(5):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = bench.office.context(bench.office.client).wrap_bio(incoming, outgoing)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        _, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(outgoing.read())
        await writer.drain()
        writer.transport.abort()
    await gone(bench)
    client = await bench.connect()
    client.send(request())
    assert (await client.receive())[0] == Code.ACCESS_ACCEPT
    await client.close()
    await bench.close()


async def test_strangers_do_not_keep_clients_out(tmp_path: Path) -> None:
    """Connections without a handshake give way, the oldest first; clients that are known do not."""
    bench = await Bench(tmp_path).start(Limits(max_connections=3))
    known = await bench.connect()
    await until(lambda: any(one.who is not None for one in bench.server.connections))
    idle = []
    for number in range(1, 3):
        idle.append(await asyncio.open_connection("127.0.0.1", bench.port))
        await until(lambda wanted=number: len(bench.server.connections) == 1 + wanted)  # type: ignore[misc]
        bench.now += 1
    second = await bench.connect()
    second.send(request())
    assert (await second.receive())[0] == Code.ACCESS_ACCEPT
    assert await asyncio.wait_for(idle[0][0].read(1), WAIT_S) == b""
    known.send(request())
    assert (await known.receive())[0] == Code.ACCESS_ACCEPT
    for _, writer in idle:
        writer.close()
    await bench.close()


async def test_strangers_do_not_fill_the_log(tmp_path: Path) -> None:
    """With a certificate that nobody knows: one line a minute for each address and reason."""
    stream = io.StringIO()
    before = logs.level_name()
    logs.configure("info", stream=stream)
    try:
        bench = await Bench(tmp_path).start()
        stranger = authority("stranger").issue(["nobody"])
        for _ in range(5):
            assert await (await bench.connect(stranger)).closed()
        await gone(bench)
        text = stream.getvalue()
        assert text.count("of no provider") == 1 and text.count("not trusted") == 1
        await bench.close()
    finally:
        logs.configure(before)


async def test_who_has_too_many_connections_pushes_nobody_out(tmp_path: Path) -> None:
    """One that is refused for its own address's sake costs no other its place."""
    bench = await Bench(tmp_path).start(Limits(max_connections=2, max_connections_per_address=2))
    first = [await asyncio.open_connection("127.0.0.1", bench.port) for _ in range(2)]
    await until(lambda: len(bench.server.connections) == 2)
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        assert await asyncio.wait_for(reader.read(1), WAIT_S) == b""
        writer.close()
    assert len(bench.server.connections) == 2 and not any(one.closing for one in bench.server.connections)
    for _, writer in first:
        writer.close()
    await bench.close()
