"""SASL binds: which provider, which user, and that EXTERNAL takes nothing but what the core granted."""

from __future__ import annotations

import datetime

import pytest

from common.client_certificate import ClientCertificate
from common.outcomes import CoreSession, Passed, Reason, Unavailable
from outposts.ldap.auth import BindAnswer, Peer
from outposts.ldap.messages import BindRequest, Sasl
from outposts.ldap.providers import Providers
from tests.certificates import Issuer, authority
from tests.ldap.binds import ALICE, B, Desk, b, request, settings, table

TLS = Peer("10.1.2.3", encrypted=True)
ROOT = authority()
ONE = table(settings())
CACHED = table(settings(bind_mode="cached"))


async def bind(desk: Desk, what: BindRequest, providers: Providers = ONE, peer: Peer = TLS) -> BindAnswer:
    answer = desk.authenticator.at_once(what, peer, providers)
    return answer if answer is not None else await desk.authenticator.bind(what, peer, providers)


def plain(user: str = "alice", password: str = "pw", wanted: str = "", name: str = "") -> BindRequest:
    return request(name, method=Sasl("PLAIN", f"{wanted}\0{user}\0{password}".encode()))


@pytest.mark.parametrize("mechanism", ["PLAIN", "plain", "Plain"])
@pytest.mark.parametrize("user", ["alice", ALICE])
async def test_plain(mechanism: str, user: str) -> None:
    """A user name, as RFC 4616 means it, or a DN; the same identity as by a simple bind."""
    desk = Desk()
    answer = await bind(desk, request("", method=Sasl(mechanism, f"\0{user}\0pw".encode())))
    assert answer.identity is not None
    assert answer.identity.authorization_id == f"dn:{ALICE}"
    assert desk.login.asked[0][1].username == "alice"
    assert answer.username == "alice"


async def test_plain_asks_the_flow_and_believes_it() -> None:
    """A wrong password is 49; the name in the bind request itself means nothing."""
    desk = Desk()
    assert (await bind(desk, plain(password="no"))).code == 49
    assert (await bind(desk, plain(user="bob", name=ALICE))).code == 0
    assert [credentials.username for _, credentials in desk.login.asked] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ("", 0),
        ("u:alice", 0),
        (f"dn:{ALICE}", 0),
        ("dn:CN=Alice,OU=Users," + B, 0),
        ("u:bob", 49),
        (f"dn:cn=bob,ou=users,{b}", 49),
        ("alice", 49),
        ("bob", 49),
        ("dn:", 49),
        ("u:", 49),
    ],
)
@pytest.mark.parametrize("providers", [ONE, CACHED], ids=["direct", "cached"])
async def test_plain_for_nobody_else(wanted: str, code: int, providers: Providers) -> None:
    """RFC 4616 §2: also when the cache knows the password, and when others wait for the same run."""
    desk = Desk()
    assert (await bind(desk, plain(), providers)).code == 0
    for _ in range(2):
        answer = await bind(desk, plain(wanted=wanted), providers)
        assert (answer.code, answer.identity is None) == (code, code != 0)


async def test_plain_names_users_where_several_providers_are() -> None:
    """A plain name needs a provider that takes such names; a DN finds its own."""
    two = table(settings(1), settings(2, "dc=other"))
    desk = Desk()
    assert (await bind(desk, plain(), two)).code == 50
    assert (await bind(desk, plain(user="cn=alice,dc=other"), two)).code == 0
    assert desk.login.asked[0][0].provider_pk == 2
    taking = table(settings(1), settings(2, "dc=other", extra={"bind_names": ("username",)}))
    assert (await bind(desk, plain(), taking)).code == 0
    assert desk.login.asked[1][0].provider_pk == 2


@pytest.mark.parametrize(
    ("credentials", "code"),
    [(None, 2), (b"", 2), (b"\0alice\0", 2), (b"\0\0pw", 2), (b"\0alice\0\xff", 49), (b"\0 \0pw", 34)],
)
async def test_plain_without_its_parts_asks_nobody(credentials: bytes | None, code: int) -> None:
    """No empty password, no half message."""
    desk = Desk()
    assert (await bind(desk, request("", method=Sasl("PLAIN", credentials)))).code == code
    assert desk.login.asked == []


# -- EXTERNAL --------------------------------------------------------------------------------------------------------

TAKES = {"client_certificates": True}
VERIFIES = {"client_certificates": True, "client_ca": ROOT.pem}


def with_certificate(one: Issuer | None = None, *others: Issuer) -> Peer:
    leaf = one or ROOT.issue()
    certificate = ClientCertificate(leaf.pem, tuple(other.pem for other in others))
    return Peer("10.1.2.3", encrypted=True, certificate=certificate)


def desk_now() -> Desk:
    """A desk whose clock is the certificates'."""
    desk = Desk()
    desk.now = datetime.datetime.now(datetime.UTC).timestamp()
    desk.login.outcome = Passed(CoreSession({}, "s" * 64, None), 1, "alice", True, None, False)
    return desk


def external(wanted: str | None = "", name: str = "") -> BindRequest:
    return request(name, method=Sasl("EXTERNAL", None if wanted is None else wanted.encode()))


@pytest.mark.parametrize("wanted", ["", None])
@pytest.mark.parametrize("extra", [TAKES, VERIFIES], ids=["the core looks", "we look too"])
async def test_external(extra: dict[str, object], wanted: str | None) -> None:
    """The certificate goes to the login part, without name and password, with what we know of its issuer."""
    desk = desk_now()
    peer = with_certificate()
    answer = await bind(desk, external(wanted), table(settings(extra=extra)), peer)
    assert answer.identity is not None
    assert answer.identity.dn == ALICE
    credentials = desk.login.asked[0][1]
    assert peer.certificate is not None
    assert (credentials.username, credentials.password, credentials.certificate_pem) == ("", "", peer.certificate.pem)
    assert (credentials.certificate_only, credentials.certificate_trusted) == (True, extra is VERIFIES)


@pytest.mark.parametrize(
    ("wanted", "sent", "code"),
    [
        ("u:alice", "alice", 0),
        (f"dn:{ALICE}", "alice", 0),
        ("u:bob", "bob", 49),
        (f"dn:cn=bob,ou=users,{b}", "bob", 49),
        (f"dn:cn=alice,{b}", "alice", 49),
        ("alice", None, 49),
        ("dn:garbage,", None, 34),
        ("dn:cn=alice,dc=elsewhere", None, 50),
    ],
)
async def test_external_for_nobody_else(wanted: str, sent: str | None, code: int) -> None:
    """The name goes to the flow; the answer must be that very user."""
    desk = desk_now()
    answer = await bind(desk, external(wanted), table(settings(extra=VERIFIES)), with_certificate())
    assert answer.code == code
    assert [credentials.username for _, credentials in desk.login.asked] == ([] if sent is None else [sent])


@pytest.mark.parametrize(
    ("peer", "extra", "code"),
    [
        (TLS, TAKES, 48),
        (TLS, VERIFIES, 48),
        (with_certificate(), {}, 7),
        (TLS, {}, 7),
        (Peer("10.1.2.3", certificate=ClientCertificate(ROOT.issue().pem)), TAKES, 13),
        (with_certificate(authority("other").issue()), VERIFIES, 49),
        (with_certificate(ROOT.issue(days=(-2, -1))), VERIFIES, 49),
        (with_certificate(), {"client_certificates": True, "client_ca": "garbage"}, 52),
        (with_certificate(), {"client_certificates": True, "client_ca": " "}, 52),
    ],
)
async def test_external_without_a_usable_certificate_asks_nobody(
    peer: Peer, extra: dict[str, object], code: int
) -> None:
    """None shown (RFC 4513 §5.2.3: 48), none taken, in the clear, not vouched for, and issuers that cannot be read."""
    desk = desk_now()
    assert (await bind(desk, external(), table(settings(extra=extra)), peer)).code == code
    assert desk.login.asked == []


async def test_external_never_comes_from_the_cache() -> None:
    """Nor does a core that is away get a grace."""
    desk = desk_now()
    providers = table(settings(bind_mode="cached", extra=VERIFIES))
    for _ in range(2):
        answer = await bind(desk, external(), providers, with_certificate())
        assert (answer.code, answer.cached) == (0, False)
    assert (len(desk.login.asked), len(desk.cache)) == (2, 0)
    assert desk.login.asked[0][0].remember_me is False
    desk.login.outcome = Unavailable(Reason.CORE_UNAVAILABLE)
    assert (await bind(desk, external(), providers, with_certificate())).code == 52


async def test_external_where_several_providers_are() -> None:
    """The only one that takes certificates, or the one that the name leads to, if it takes them."""
    mixed = table(settings(1), settings(2, "dc=other", extra=TAKES))
    desk = desk_now()
    assert (await bind(desk, external(), mixed, with_certificate())).code == 0
    assert desk.login.asked[0][0].provider_pk == 2
    assert (await bind(desk, external(f"dn:{ALICE}"), mixed, with_certificate())).code == 7
    both = table(settings(1, extra=TAKES), settings(2, "dc=other", extra=TAKES))
    assert (await bind(desk, external(), both, with_certificate())).code == 49
    assert (await bind(desk, external(f"dn:{ALICE}"), both, with_certificate())).code == 0
    assert desk.login.asked[1][0].provider_pk == 1


async def test_a_certificate_is_nothing_in_a_simple_bind() -> None:
    """The password decides, and the certificate is not even sent."""
    desk = Desk()
    peer = with_certificate()
    providers = table(settings(extra=VERIFIES))
    assert (await bind(desk, request(password="no"), providers, peer)).code == 49
    assert (await bind(desk, request(), providers, peer)).code == 0
    assert all(credentials.certificate_pem is None for _, credentials in desk.login.asked)
