"""Rights: one table of who holds what, application access, and what an outpost's account may see."""

from __future__ import annotations

import pytest

from core import access
from core.access import Access
from core.database import Database, record_key
from core.models import (
    Application,
    Flow,
    Group,
    KeyPair,
    Outpost,
    PolicyBinding,
    Provider,
    Role,
    Token,
    User,
    anonymous_user,
)  # fmt: skip
from core.policies import POLICY_TYPES
from core.policies.engine import PolicyEngine

LDAP = "authentik_providers_ldap.ldapprovider"
RADIUS = "authentik_providers_radius.radiusprovider"


class Setup:
    """Two LDAP providers and people with the right to search one of them in different ways."""

    def __init__(self) -> None:
        self.database = database = Database(":memory:")
        self.access = Access(database, PolicyEngine(database, POLICY_TYPES))
        self.provider = database.save(Provider(type=LDAP, name="one"))
        self.other = database.save(Provider(type=LDAP, name="two"))
        one = database.save(Role(name="one"))
        everything = database.save(Role(name="everything"))
        database.grant(one, access.SEARCH_FULL_DIRECTORY, record_key(self.provider))
        database.grant(one, access.SEARCH_FULL_DIRECTORY, record_key(self.provider))
        database.grant(everything, access.SEARCH_FULL_DIRECTORY)
        top = database.save(Group(name="top", role_pks=[one.pk]))
        child = database.save(Group(name="child", parents=[top.pk]))
        admins = database.save(Group(name="admins", is_superuser=True))
        below = database.save(Group(name="below", parents=[admins.pk]))
        self.users = {
            "nobody": database.save(User(username="nobody")),
            "own role": database.save(User(username="own", role_pks=[one.pk])),
            "group role": database.save(User(username="grouped", group_pks=[top.pk])),
            "ancestor's role": database.save(User(username="nested", group_pks=[child.pk])),
            "global": database.save(User(username="global", role_pks=[everything.pk])),
            "superuser": database.save(User(username="admin", group_pks=[admins.pk])),
            "nested superuser": database.save(User(username="subadmin", group_pks=[below.pk])),
            "inactive": database.save(User(username="gone", role_pks=[one.pk, everything.pk], is_active=False)),
            "inactive superuser": database.save(User(username="exadmin", group_pks=[admins.pk], is_active=False)),
            "anonymous": anonymous_user(),
        }


@pytest.mark.parametrize(
    ("who", "one", "two"),
    [
        ("nobody", False, False),
        ("own role", True, False),
        ("group role", True, False),
        ("ancestor's role", True, False),
        ("global", True, True),
        ("superuser", True, True),
        ("nested superuser", True, True),
        ("inactive", False, False),
        ("inactive superuser", False, False),
        ("anonymous", False, False),
    ],
)
def test_who_may_search_everything(who: str, one: bool, two: bool) -> None:
    """By own role, a group's role, an ancestor's role, globally, or as superuser."""
    setup = Setup()
    user = setup.users[who]
    assert setup.access.search_full_directory(user, setup.provider) is one
    assert setup.access.search_full_directory(user, setup.other) is two
    visible = setup.access.visible_pks(user, access.SEARCH_FULL_DIRECTORY, LDAP)
    wanted = {str(setup.provider.pk)} if one else set()
    assert visible == (None if two else wanted)


async def test_application_access() -> None:
    """Bindings decide; without bindings everybody who is logged in and active; anonymous and inactive never."""
    setup = Setup()
    group = setup.database.save(Group(name="staff"))
    insider = setup.database.save(User(username="insider", group_pks=[group.pk]))
    open_one = setup.database.save(Application(name="open", slug="open"))
    closed = setup.database.save(Application(name="closed", slug="closed"))
    setup.database.save(PolicyBinding(target=closed.pk, group=group.pk))
    nobody = setup.users["nobody"]
    assert (await setup.access.application(open_one, nobody)).passing
    assert not (await setup.access.application(open_one, nobody, default=False)).passing
    assert (await setup.access.application(closed, insider)).passing
    assert not (await setup.access.application(closed, nobody)).passing
    for who in ("inactive", "anonymous"):
        assert not (await setup.access.application(open_one, setup.users[who])).passing


@pytest.mark.parametrize("kind", ["ldap", "radius"])
def test_an_outpost_sees_its_own(kind: str) -> None:
    """Own outpost, assigned providers, their certificates; people only for LDAP; a change of providers changes it."""
    database = Database(":memory:")
    rights = Access(database, PolicyEngine(database, POLICY_TYPES))
    pair = database.save(KeyPair(name="c", certificate_data="PEM"))
    spare = database.save(KeyPair(name="d", certificate_data="PEM"))
    type_ = LDAP if kind == "ldap" else RADIUS
    mine = database.save(Provider(type=type_, name="mine", options={"certificate": pair.pk}))
    other = database.save(Provider(type=type_, name="other", options={"certificate": spare.pk}))
    outpost = database.save(Outpost(name="o", type=kind, providers=[mine.pk or 0]))
    second = database.save(Outpost(name="p", type=kind))
    user = database.user_by_api_key(database.outpost_token("o"))
    assert user is not None
    assert user.username == f"ak-outpost-{outpost.pk.replace('-', '')}"
    assert (user.type, user.path, user.is_superuser) == ("internal_service_account", "goauthentik.io/outposts", False)
    assert not user.has_usable_password()
    assert database.outpost_of(user) == outpost
    token = database.first(Token, identifier=f"ak-outpost-{outpost.pk}-api")
    assert token is not None
    assert (token.intent, token.expiring) == ("api", False)
    view = access.view_provider(type_)
    assert rights.may(user, access.VIEW_OUTPOST, outpost)
    assert not rights.may(user, access.VIEW_OUTPOST, second)
    assert rights.may(user, view, mine)
    assert not rights.may(user, view, other)
    assert rights.may(user, access.ADD_EVENT)
    for verb in (access.VIEW_KEY_PAIR, access.VIEW_CERTIFICATE, access.VIEW_PRIVATE_KEY):
        assert rights.may(user, verb, pair)
        assert not rights.may(user, verb, spare)
    assert rights.may(user, access.VIEW_USER) is (kind == "ldap")
    assert rights.may(user, access.VIEW_GROUP) is (kind == "ldap")
    assert rights.empty_list_allowed(user)

    outpost.providers = [other.pk or 0]
    database.save(outpost)
    assert not rights.may(user, view, mine)
    assert not rights.may(user, access.VIEW_PRIVATE_KEY, pair)
    assert rights.may(user, access.VIEW_PRIVATE_KEY, spare)

    other.options = {"certificate": pair.pk}  # a change of the provider alone moves the right as well
    database.save(other)
    assert rights.may(user, access.VIEW_PRIVATE_KEY, pair)
    assert not rights.may(user, access.VIEW_PRIVATE_KEY, spare)

    key = database.outpost_token("o")
    database.delete(outpost)
    assert database.user_by_api_key(key) is None


def test_a_right_on_an_object_dies_with_it() -> None:
    """A later object with the same key does not inherit rights."""
    setup = Setup()
    pk = setup.provider.pk
    setup.database.delete(setup.provider)
    again = setup.database.save(Provider(pk=pk, type=LDAP, name="again"))
    assert not setup.access.search_full_directory(setup.users["own role"], again)


def test_deleting_a_flow_takes_its_bindings() -> None:
    """Policy bindings have no foreign key to their targets; they go all the same."""
    database = Database(":memory:")
    user = database.save(User(username="u"))
    flow = database.save(Flow(name="f", slug="f", title="f", designation="invalidation"))
    database.save(PolicyBinding(target=flow.pk, user=user.pk))
    database.delete(flow)
    assert database.count(PolicyBinding) == 0
