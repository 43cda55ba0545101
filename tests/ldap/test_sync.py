"""Content synchronization and persistent search without sockets: whatever happens, the client ends with the truth."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outposts.ldap import controls, filters
from outposts.ldap.changes import ChangeLog, compare, comparing, identity, uuid_of
from outposts.ldap.directory import Snapshot
from outposts.ldap.dn import DN
from outposts.ldap.entries import EntryOptions
from outposts.ldap.feeds import CookieSealer, Feed, Feeds
from outposts.ldap.messages import Control, Result, SearchEntry, SearchRequest
from outposts.ldap.rfc import ControlOid, ResultCode, Tag
from outposts.ldap.search import Viewer
from outposts.ldap.stages import TRANSITIONS, Event, Stage
from outposts.ldap.sync import Follower, Question, names_any, reaches_far
from outposts.ldap.sync_wire import (
    ChangeType,
    PersistentSearch,
    SyncMode,
    decode_entry_change,
    encode_persistent_search,
)
from outposts.ldap.wire import encode_result
from tests import factories
from tests.ldap.binds import B, b
from tests.ldap.desks import responses, search_request
from tests.ldap.replica import Replica, truth

KEY = b"k" * 32
FULL = Viewer(1, True)
RO, RP = SyncMode.REFRESH_ONLY, SyncMode.REFRESH_AND_PERSIST

# A directory in short: users by pk → (name, mail), groups by name → (members, parents)
State = tuple[dict[int, tuple[str, str]], dict[str, tuple[frozenset[int], frozenset[str]]]]


def build(state: State, previous: Snapshot | None = None, **options: Any) -> Snapshot:
    """A snapshot of it."""
    people, groups = state
    users = [factories.user(pk, name, email=mail) for pk, (name, mail) in people.items()]
    rows = [
        factories.group(
            name,
            20000 + number,
            users=[pk for pk in members if pk in people],
            parents=[parent for parent in parents if parent in groups and parent != name],
        )
        for number, (name, (members, parents)) in enumerate(sorted(groups.items()))
    ]
    factories.link(users, rows)
    raw = msgspec.json.encode
    return Snapshot.build(
        EntryOptions(B, **options),
        [msgspec.Raw(raw(user)) for user in users],
        [msgspec.Raw(raw(row)) for row in rows],
        previous,
    )


BASE: State = (
    {1: ("alice", "a@x.io"), 2: ("bob", "b@x.io"), 3: ("carol", "c@y.io")},
    {"staff": (frozenset({1, 2}), frozenset()), "ops": (frozenset({3}), frozenset({"staff"}))},
)


class Server:
    """One provider's directory and the searches that follow it."""

    def __init__(self, state: State = BASE, keep: int = 4, **options: Any) -> None:
        self.options = options
        self.keep = keep
        self.snapshot = build(state, **options)
        self.feeds = Feeds(KEY, keep)
        self.feeds.offer({1: self.snapshot})

    @property
    def feed(self) -> Feed:
        """The feed."""
        found = self.feeds.of(1)
        assert found is not None
        return found

    def change(self, state: State) -> None:
        """The next snapshot comes into service."""
        self.snapshot = build(state, self.snapshot, **self.options)
        waiting, orphans = self.feeds.offer({1: self.snapshot})
        assert orphans == []
        for feed in waiting:
            feed.publish(self.snapshot, compare(feed.snapshot, self.snapshot))
            feed.offered = None

    def restart(self) -> None:
        """The same directory from its sealed form, and nothing else."""
        self.snapshot = Snapshot.from_buffer(self.snapshot.to_bytes())
        self.feeds = Feeds(KEY, self.keep)
        self.feeds.offer({1: self.snapshot})

    def follow(self, request: SearchRequest, viewer: Viewer = FULL) -> Follower:
        """A new search."""
        follower = Follower(self.feed, question_of(request, viewer), self.feeds.cookies)
        self.feed.followers.add(follower)
        return follower


def question_of(request: SearchRequest, viewer: Viewer = FULL) -> Question:
    """As it is asked of a follower."""
    given = controls.read(request.controls, controls.Operation.SEARCH)
    asked = given.sync or given.persistent
    assert asked is not None
    return Question(request, DN.parse(request.base), viewer, asked, filters.encode(request.filter))


def read(follower: Follower) -> bytes:
    """Everything that is due, and the final message if it is over."""
    data = b"".join(follower.due())
    if follower.ended:
        data += encode_result(2, Tag.SEARCH_DONE, follower.code, controls=follower.controls)
    return data


def ask(server: Server, replica: Replica, mode: SyncMode, viewer: Viewer = FULL, **what: Any) -> Follower:
    """A synchronization search; the replica hears what comes at once."""
    attributes = what.pop("attributes", ())
    follower = server.follow(search_request(2, *_where(what), *attributes, controls=(replica.control(mode),)), viewer)
    replica.hear(read(follower))
    return follower


def _where(what: dict[str, Any]) -> tuple[str, int, str]:
    return what.get("base", B), what.get("scope", 2), what.get("text", "(objectClass=*)")


def expect(server: Server, replica: Replica, viewer: Viewer = FULL, **what: Any) -> None:
    """The replica holds the truth."""
    attributes = what.pop("attributes", ())
    assert replica.content == truth(server.snapshot, search_request(2, *_where(what), *attributes), viewer)


def changed(pk: int, name: str, mail: str) -> State:
    """The directory with one user as told."""
    people, groups = BASE
    return people | {pk: (name, mail)}, groups


# -- refresh ---------------------------------------------------------------------------------------------------------


def test_the_first_refresh_brings_everything_and_a_cookie() -> None:
    """RFC 4533 §3.3.1."""
    server, replica = Server(), Replica()
    ask(server, replica, RO)
    assert replica.code == 0
    assert replica.counts == {"add": 4 + 3 + 3 + 2}
    expect(server, replica)
    assert replica.cookie is not None
    assert replica.cookie.isascii()


def test_nothing_new_is_nothing_sent() -> None:
    """A cookie of the present state, with the log or from a sealed directory after a restart."""
    server, replica = Server(), Replica()
    ask(server, replica, RO)
    for _ in range(2):
        ask(server, replica, RO)
        assert replica.counts == {}
        expect(server, replica)
        server.restart()


def test_a_later_refresh_brings_the_difference() -> None:
    """One user changed, one gone, one new: three users' entries and the groups that name them."""
    server, replica = Server(), Replica()
    ask(server, replica, RO)
    people, groups = changed(1, "alice", "new@x.io")
    server.change(({1: people[1], 3: people[3], 9: ("zoe", "z@x.io")}, groups))
    ask(server, replica, RO)
    # alice, zoe and zoe's group; bob and his; staff has lost a member
    assert replica.counts == {"add": 4, "listed": 2}
    expect(server, replica)


def test_an_entry_that_leaves_the_filter_is_deleted() -> None:
    """And one that comes to match is added."""
    what: dict[str, Any] = {"text": "(mail=*@x.io)", "attributes": (b"mail",)}
    server, replica = Server(), Replica()
    ask(server, replica, RO, **what)
    assert len(replica.content) == 2
    people, groups = changed(1, "alice", "a@y.io")
    server.change((people | {3: ("carol", "c@x.io")}, groups))
    ask(server, replica, RO, **what)
    expect(server, replica, **what)
    assert {dn for dn, _ in replica.content.values()} == {
        f"cn={name},ou=users,{b}".encode() for name in ("bob", "carol")
    }


def test_a_few_generations_are_remembered_and_older_cookies_still_converge() -> None:
    """keep=2: two changes ago is a small answer, three is everything."""
    server, old = Server(keep=2), Replica()
    ask(server, old, RO)
    cookie = old.cookie
    for number in range(3):
        server.change(changed(1, "alice", f"{number}@x.io"))
        replica = Replica(dict(old.content), cookie)
        ask(server, replica, RO)
        assert replica.counts == ({"add": 1} if number < 2 else {"add": 12})
        expect(server, replica)


def test_a_directory_that_comes_back_to_what_it_was() -> None:
    """The shortest way: none."""
    server, replica = Server(), Replica()
    ask(server, replica, RO)
    server.change(changed(1, "alice", "other@x.io"))
    server.change(BASE)
    ask(server, replica, RO)
    assert replica.counts == {}
    expect(server, replica)


@pytest.mark.parametrize(
    "what", [{"text": "(cn=alice)"}, {"scope": 1}, {"attributes": (b"cn",)}, {"viewer": Viewer(2, False)}]
)
def test_a_cookie_of_another_search_is_as_good_as_none(what: dict[str, Any]) -> None:
    """Full refresh; what the other search brought is dropped."""
    server, replica = Server(), Replica()
    ask(server, replica, RO)
    ask(server, replica, RO, **what)
    expect(server, replica, **what)


@pytest.mark.parametrize("cookie", [b"", b"1.", b"rid=001,csn=x", b"1.!!!", b"1." + b"A" * 43, b"\xff" * 9])
def test_foreign_and_damaged_cookies(cookie: bytes) -> None:
    """Full refresh."""
    server, replica = Server(), Replica(cookie=cookie)
    ask(server, replica, RO)
    assert replica.counts == {"add": 12}


def test_cookies_are_bound_to_key_and_search() -> None:
    """One octet more or less, another key, another search: none."""
    sealer = CookieSealer(KEY)
    cookie = sealer.seal(b"s" * 16, b"search")
    assert sealer.open(cookie, b"search") == b"s" * 16
    assert sealer.open(cookie, b"other") is None
    assert sealer.open(None, b"search") is None
    assert CookieSealer(b"other").open(cookie, b"search") is None
    assert "k" * 8 not in repr(sealer)
    for position in range(len(cookie)):
        assert sealer.open(cookie[:position] + b"_" + cookie[position + 1 :], b"search") in (None, b"s" * 16)
        assert sealer.open(cookie[:position], b"search") is None


def test_the_size_limit_ends_a_refresh_without_cookie() -> None:
    """4, and the client stays where it was."""
    server, replica = Server(), Replica()
    request = search_request(2, B, 2, size_limit=5, controls=(replica.control(RP),))
    follower = server.follow(request)
    replica.hear(read(follower))
    assert (replica.code, replica.counts, replica.cookie) == (ResultCode.SIZE_LIMIT_EXCEEDED, {"add": 5}, None)
    assert not server.feed.followers


def test_the_time_limit_ends_a_refresh() -> None:
    """3, without a cookie."""
    server = Server()
    request = search_request(2, B, 2, controls=(Replica().control(RO),))
    follower = Follower(server.feed, question_of(request), server.feeds.cookies, out_of_time=lambda: True)
    assert list(follower.due()) == []
    assert (follower.ended, follower.code, follower.controls) == (True, ResultCode.TIME_LIMIT_EXCEEDED, ())


# -- persist stage ---------------------------------------------------------------------------------------------------


def test_changes_come_as_they_happen() -> None:
    """RFC 4533 §3.4: add, modify, delete, and a cookie behind them."""
    server, replica = Server(), Replica()
    follower = ask(server, replica, RP)
    assert replica.refreshed
    assert (replica.code, follower.ended) == (None, False)
    first = replica.cookie
    people, groups = changed(1, "alice", "new@x.io")
    server.change(({1: people[1], 3: people[3], 9: ("zoe", "z@x.io")}, groups))
    assert follower.behind
    replica.counts.clear()
    replica.hear(read(follower))
    assert replica.counts == {"modify": 2, "add": 2, "delete": 2}
    assert list(follower.due()) == []
    assert replica.cookie not in (None, first)
    expect(server, replica)
    ask(server, replica, RO)  # the cookie is good for a later search with the same question
    assert replica.counts == {}


def test_a_slow_client_gets_several_generations_as_one() -> None:
    """Only what is different in the end."""
    server, replica = Server(), Replica()
    follower = ask(server, replica, RP)
    replica.counts.clear()
    for number in range(4):
        server.change(changed(1, "alice", f"{number}@x.io"))
    server.change(BASE)
    replica.hear(read(follower))
    assert replica.counts.get("modify", 0) <= 1
    expect(server, replica)


def test_changes_during_the_refresh_follow_it() -> None:
    """The refresh is of one snapshot; what happened meanwhile comes behind it."""
    server, replica = Server(), Replica()
    follower = server.follow(search_request(2, B, 2, controls=(replica.control(RP),)))
    chunks = follower.due()
    data = next(chunks)
    server.change(changed(1, "alice", "meanwhile@x.io"))
    replica.hear(data + b"".join(chunks))
    assert replica.counts["modify"] == 1
    expect(server, replica)


def test_a_client_that_fell_behind_has_to_begin_anew() -> None:
    """4096, and the old cookie brings everything."""
    server, replica = Server(keep=1), Replica()
    follower = ask(server, replica, RP)
    for number in range(3):
        server.change(changed(1, "alice", f"{number}@x.io"))
    replica.hear(read(follower))
    assert replica.code == ResultCode.SYNC_REFRESH_REQUIRED
    assert not server.feed.followers
    ask(server, replica, RP)
    expect(server, replica)


def test_unknown_changes_end_the_persist_stage() -> None:
    """A comparison that broke down: 4096, never silence."""
    server, replica = Server(), Replica()
    follower = ask(server, replica, RP)
    server.snapshot = build(changed(1, "alice", "n@x.io"))
    assert server.feed.publish(server.snapshot, None) == [follower]
    replica.hear(read(follower))
    assert replica.code == ResultCode.SYNC_REFRESH_REQUIRED


def test_a_directory_that_is_gone_ends_the_persist_stage() -> None:
    """The provider was removed, or is asked directly from now on."""
    server, replica = Server(), Replica()
    follower = ask(server, replica, RP)
    waiting, orphans = server.feeds.offer({})
    assert (waiting, orphans) == ([], [follower])
    replica.hear(read(follower))
    assert replica.code == ResultCode.SYNC_REFRESH_REQUIRED
    assert len(server.feeds) == 0


def test_closing_is_final() -> None:
    """Abandoned: nothing more comes, and nobody is told."""
    server, replica = Server(), Replica()
    follower = ask(server, replica, RP)
    assert len(server.feeds) == 1
    follower.close()
    assert len(server.feeds) == 0
    server.change(changed(1, "alice", "n@x.io"))
    assert list(follower.due()) == []
    assert follower.ended


def test_membership_through_groups_in_groups_changes_without_the_user() -> None:
    """The chain rule: carol's own entry stays as it is when ops leaves staff."""
    what: dict[str, Any] = {"text": f"(memberOf:1.2.840.113556.1.4.1941:=cn=staff,ou=groups,{B})"}
    server, replica, poller = Server(), Replica(), Replica()
    follower = ask(server, replica, RP, **what)
    ask(server, poller, RO, **what)
    expect(server, replica, **what)
    people, groups = BASE
    server.change((people, groups | {"ops": (frozenset({3}), frozenset())}))
    replica.hear(read(follower))
    ask(server, poller, RO, **what)
    expect(server, replica, **what)
    expect(server, poller, **what)


def test_counts_of_subordinates_are_followed_when_asked_for() -> None:
    """Containers change with what is in them, for those who look at it."""
    people, groups = BASE
    for attributes, extra in (((b"numSubordinates",), 2), ((b"cn",), 0)):
        server, replica = Server(), Replica()
        follower = ask(server, replica, RP, attributes=attributes)
        replica.counts.clear()
        server.change((people | {9: ("zoe", "z@x.io")}, groups))
        replica.hear(read(follower))
        assert replica.counts == {"add": 2} | ({"modify": extra} if extra else {})
        expect(server, replica, attributes=attributes)


def test_types_only_has_states_too() -> None:
    """Every entry has its control whatever is in it."""
    server, replica = Server(), Replica()
    request = search_request(2, B, 2, controls=(replica.control(RO),))
    request = msgspec.structs.replace(request, types_only=True)
    replica.hear(read(server.follow(request)))
    assert replica.counts == {"add": 12}


# -- viewers ---------------------------------------------------------------------------------------------------------


def test_a_restricted_viewer_follows_its_own_view() -> None:
    """Nothing of others shows, neither entries nor deletions."""
    viewer = Viewer(2, False)
    server, replica = Server(), Replica()
    follower = ask(server, replica, RP, viewer)
    expect(server, replica, viewer)
    before = replica.cookie
    replica.counts.clear()
    people, groups = BASE
    server.change(({2: people[2], 9: ("zoe", "z@x.io")}, groups))
    assert read(follower) == b""
    assert replica.cookie == before
    server.change((people, groups | {"ops": (frozenset({2}), frozenset())}))
    replica.hear(read(follower))
    assert replica.counts == {"modify": 2, "add": 1}  # bob is in ops now; staff has another place in the view
    expect(server, replica, viewer)
    ask(server, replica, RO, viewer)
    assert replica.counts == {}
    server.change(BASE)
    ask(server, replica, RO, viewer)
    expect(server, replica, viewer)


# -- everything at random --------------------------------------------------------------------------------------------

names = st.sampled_from(["alice", "bob", "carol", "dave", "eve"])
mails = st.sampled_from(["a@x.io", "b@y.io", ""])
people_states = st.dictionaries(st.integers(1, 5), st.tuples(names, mails), max_size=5).map(
    lambda found: {pk: (f"{name}{pk // 4}", mail) for pk, (name, mail) in found.items()}
)
group_states = st.dictionaries(
    st.sampled_from(["staff", "ops", "all"]),
    st.tuples(
        st.frozensets(st.integers(1, 5), max_size=3), st.frozensets(st.sampled_from(["staff", "all"]), max_size=1)
    ),
    max_size=3,
)
states = st.tuples(people_states, group_states)
searches = st.fixed_dictionaries(
    {
        "text": st.sampled_from(
            [
                "(objectClass=*)", "(mail=*@x.io)", f"(memberOf=cn=staff,ou=groups,{B})", "(!(cn=alice0))",
                f"(memberOf:1.2.840.113556.1.4.1941:=cn=all,ou=groups,{B})", "(objectClass=group)", "(cn>=c)",
            ]
        ),
        "base": st.sampled_from([B, f"ou=users,{B}", f"cn=alice0,ou=users,{B}", f"ou=virtual-groups,{B}"]),
        "scope": st.sampled_from([0, 1, 2]),
        "attributes": st.sampled_from([(), (b"cn", b"mail"), (b"*", b"+"), (b"1.1",)]),
    }
)  # fmt: skip
viewers = st.sampled_from([FULL, Viewer(2, False), Viewer(3, False)])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("change"), states),
        st.tuples(st.sampled_from(["poll", "listen", "old cookie", "restart", "lose"]), st.none()),
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(states, steps, searches, viewers, st.booleans())
def test_the_replica_always_ends_with_the_truth(
    state: State, story: list[tuple[str, Any]], what: dict[str, Any], viewer: Viewer, nested: bool
) -> None:
    """Changes, polls, persisting, lost messages, old cookies with old contents, restarts, in any order."""
    server = Server(state, keep=2, nested_groups=nested)
    replica = Replica()
    past = Replica()
    follower: Follower | None = None

    def hear() -> None:
        nonlocal follower
        if follower is not None:
            replica.hear(read(follower))
            if follower.ended:
                follower = None

    def poll() -> None:
        ask(server, replica, RO, viewer, **dict(what))
        assert replica.code == 0
        expect(server, replica, viewer, **dict(what))

    for act, more in story:
        if act == "change":
            server.change(more)
        elif act == "poll":
            follower = None
            poll()
            past = Replica(dict(replica.content), replica.cookie)
        elif act == "listen":
            follower = ask(server, replica, RP, viewer, **dict(what))
        elif act == "old cookie":
            follower = None
            replica = Replica(dict(past.content), past.cookie)
        elif act == "restart":
            follower = None
            server.restart()
        elif follower is not None:
            # The connection breaks after the first message: what was applied is applied, the cookie is the old one.
            heard = responses(read(follower))
            for message in heard[:1]:
                if not isinstance(message, Result):
                    replica.hear([message])
            follower = None
        if follower is not None and act != "listen":
            hear()
        if follower is not None:
            expect(server, replica, viewer, **dict(what))
    poll()


@settings(max_examples=100, deadline=None)
@given(states, states)
def test_a_change_set_is_the_difference(before: State, after: State) -> None:
    """Everything that differs is named, nothing else; whether or not the newer snapshot was built on the older."""
    older = build(before)
    for newer in (build(after, older), build(after)):
        changes = compare(older, newer)
        was = {uuid_of(older, number): (older.dn(number), older.entry(number)) for number in older.all}
        now = {uuid_of(newer, number): (newer.dn(number), newer.entry(number)) for number in newer.all}
        touched = {uuid_of(newer, number) for number in changes.touched}
        assert touched >= {uuid for uuid in now if was.get(uuid) != now[uuid]}
        assert {uuid_of(newer, number) for number in changes.added} == now.keys() - was.keys()
        moved = {row.uuid for row in changes.gone}
        assert moved >= was.keys() - now.keys()
        assert all(was[row.uuid][0] == row.dn for row in changes.gone)
        for uuid in touched & was.keys() & now.keys() - moved:
            assert was[uuid] != now[uuid]
        if changes.before == changes.after:
            assert was == now


# -- persistent search -----------------------------------------------------------------------------------------------


def persistent(types: int = 15, *, only: bool = True, changes: bool = True) -> Control:
    """The request control."""
    value = encode_persistent_search(PersistentSearch(types, only, changes))
    return Control(ControlOid.PERSISTENT_SEARCH, True, value)


def _first(dn: bytes) -> str:
    return dn.decode().split(",")[0]


def told(data: bytes) -> list[tuple[str, str, str]]:
    """(change, DN, previous DN) of each entry."""
    found = []
    for message in responses(data):
        assert isinstance(message, SearchEntry)
        kind, previous = "", b""
        for control in message.controls:
            change = decode_entry_change(control.value)
            kind, previous = change.change_type.name.lower(), change.previous_dn or b""
        found.append((kind, _first(message.name), _first(previous)))
    return found


AFTER: State = (
    {1: ("alice", "new@x.io"), 3: ("carla", "c@y.io"), 9: ("zoe", "z@x.io")},
    {"staff": (frozenset({1}), frozenset()), "ops": (frozenset({3}), frozenset({"staff"}))},
)


def test_persistent_search_tells_changes_with_their_kind() -> None:
    """Draft §4: delete, add, rename with the former name, modify."""
    server = Server()
    follower = server.follow(search_request(2, f"ou=users,{B}", 1, controls=(persistent(),)))
    assert read(follower) == b""
    server.change(AFTER)
    assert told(read(follower)) == [
        ("delete", "cn=bob", ""),
        ("add", "cn=zoe", ""),
        ("modify_dn", "cn=carla", "cn=carol"),
        ("modify", "cn=alice", ""),
    ]
    assert read(follower) == b""


@pytest.mark.parametrize(
    ("types", "names"),
    [
        (ChangeType.ADD, ["cn=zoe"]),
        (ChangeType.DELETE, ["cn=bob"]),
        (ChangeType.MODIFY, ["cn=alice", "cn=carla"]),
        (ChangeType.MODIFY_DN, ["cn=carla"]),
    ],
)
def test_persistent_search_tells_the_wanted_kinds_only(types: int, names: list[str]) -> None:
    """A rename is a modification for those who did not ask for renames."""
    server = Server()
    follower = server.follow(search_request(2, f"ou=users,{B}", 1, controls=(persistent(types),)))
    read(follower)
    server.change(AFTER)
    assert [name for _, name, _ in told(read(follower))] == names


def test_persistent_search_with_the_entries_there_are_and_without_notifications() -> None:
    """changesOnly FALSE, returnECs FALSE: plain entries, before and after."""
    server = Server()
    request = search_request(2, f"ou=users,{B}", 1, "(cn=a*)", controls=(persistent(only=False, changes=False),))
    follower = server.follow(request)
    assert told(read(follower)) == [("", "cn=alice", "")]
    server.change(AFTER)
    assert told(read(follower)) == [("", "cn=alice", "")]


def test_persistent_search_that_fell_behind_ends() -> None:
    """Busy, as there is no refresh to ask for."""
    server = Server(keep=1)
    follower = server.follow(search_request(2, B, 2, controls=(persistent(),)))
    read(follower)
    for number in range(3):
        server.change(changed(1, "alice", f"{number}@x.io"))
    read(follower)
    assert (follower.ended, follower.code) == (True, ResultCode.BUSY)


# -- parts -----------------------------------------------------------------------------------------------------------


def test_the_servers_size_limit_holds_for_the_refresh() -> None:
    """11 with as many entries as allowed; a difference within it goes through."""
    server, replica = Server(), Replica()
    request = search_request(2, B, 2, controls=(replica.control(RO),))
    follower = Follower(server.feed, question_of(request), server.feeds.cookies, 7)
    replica.hear(read(follower))
    assert (replica.code, replica.counts, replica.cookie) == (ResultCode.ADMIN_LIMIT_EXCEEDED, {"add": 7}, None)


def test_every_stage_meets_every_event() -> None:
    """Ended is final, and only a refresh leads to the persist stage."""
    for stage in Stage:
        for event in Event:
            after = TRANSITIONS.get((stage, event), stage)
            assert stage is not Stage.ENDED or after is Stage.ENDED
            assert after is not Stage.PERSIST or stage is Stage.PERSIST or event is Event.REFRESHED_AND_STAYS


def test_a_log_is_bounded_by_generations_and_by_size() -> None:
    """The newest stays; a gap empties it."""
    snapshots = [build(BASE)]
    for number in range(5):
        snapshots.append(build(changed(1, "alice", f"{number}@x.io"), snapshots[-1]))
    sets = [compare(*pair) for pair in pairwise(snapshots)]
    log = ChangeLog(2)
    for changes in sets[:3]:
        log.append(changes, 12)
    assert (len(log), log.since(sets[0].before), len(log.since(sets[1].before) or ())) == (2, None, 2)
    log.append(sets[3], 1)
    assert len(log) == 1
    log.append(sets[1], 12)
    assert log.since(sets[3].before) is None


def test_a_login_changes_records_but_no_entry() -> None:
    """Nothing is told, and such refreshes use up no room in the log."""
    server, replica = Server(keep=1), Replica()
    follower = ask(server, replica, RP)
    cookie = replica.cookie
    people, groups = BASE
    for number in range(3):
        before = server.snapshot
        users = [factories.user(pk, name, email=mail, last_login=f"{number}") for pk, (name, mail) in people.items()]
        rows = [factories.group(name, 20001 - (name == "ops"), users=sorted(groups[name][0])) for name in groups]
        rows[1]["parents"] = [factories.group_uuid("staff")]
        factories.link(users, rows)
        listed, grouped = ([msgspec.Raw(msgspec.json.encode(row)) for row in part] for part in (users, rows))
        server.snapshot = Snapshot.build(before.options, listed, grouped, before)
        changes = compare(before, server.snapshot)
        assert (changes.weight, changes.before == changes.after) == (0, False)
        server.feed.publish(server.snapshot, changes)
        assert read(follower) == b""
        assert not follower.behind
    replica = Replica(replica.content, cookie)
    ask(server, replica, RO)
    assert replica.counts == {}
    expect(server, replica)


@pytest.mark.parametrize(
    ("attributes", "text", "news"),
    [
        ((b"cn",), "(objectClass=*)", {}),
        ((b"1.1",), "(objectClass=*)", {}),
        ((b"cn", b"mail"), "(objectClass=*)", {"modify": 1}),
        ((b"cn", b"+"), "(objectClass=*)", {}),
        ((), "(objectClass=*)", {"modify": 1}),
        ((b"cn",), "(mail=*)", {"modify": 1}),
    ],
)
def test_changes_of_attributes_that_nobody_looks_at_are_no_news(
    attributes: tuple[bytes, ...], text: str, news: dict[str, int]
) -> None:
    """An attribute is looked at when it is sent or asked for by the filter."""
    what: dict[str, Any] = {"attributes": attributes, "text": text}
    server, replica, poller = Server(), Replica(), Replica()
    follower = ask(server, replica, RP, **what)
    ask(server, poller, RO, **what)
    replica.counts.clear()
    server.change(changed(1, "alice", "new@x.io"))
    replica.hear(read(follower))
    assert replica.counts == news
    ask(server, poller, RO, **what)
    assert poller.counts == ({"add": 1} if news else {})
    expect(server, replica, **what)
    expect(server, poller, **what)


def test_identities() -> None:
    """The same for the same directory however it came about; another for every difference."""
    first = build(BASE)
    same = Snapshot.from_buffer(first.to_bytes())
    other = build(changed(1, "alice", "n@x.io"), first)
    back = build(BASE, other)
    assert identity(first) == identity(same) == identity(back)
    assert identity(first) != identity(other)
    assert identity(first) != identity(build(BASE, uid_start=7))
    assert identity(first.view(1)) != identity(first.view(2))
    assert identity(first.view(2)) == identity(other.view(2))


def test_comparing_gives_others_their_turns() -> None:
    """A step for each block of slots, whether or not something in it is different."""
    people = {pk: (f"user{pk}", "a@x.io") for pk in range(1, 400)}
    older = build((people, {}))
    newer = build((people | {7: ("user7", "b@x.io")}, {}), older)
    assert sum(1 for _ in comparing(older, newer)) >= 2 * 400 // 64
    assert compare(older, newer).weight == 1


def test_a_feed_compares_once_while_more_comes() -> None:
    """What is offered during a comparison waits for it."""
    feeds = Feeds(KEY)
    first, second, third = build(BASE), build(changed(1, "alice", "1@x.io")), build(changed(1, "alice", "2@x.io"))
    assert feeds.offer({1: first}) == ([], [])
    assert feeds.offer({1: first}) == ([], [])
    feed = feeds.of(1)
    assert feed is not None
    feed.idle = 0  # somebody followed
    assert feeds.offer({1: second}) == ([feed], [])
    assert feeds.offer({1: third}) == ([], [])
    assert feed.offered is third


def test_nothing_is_compared_while_nobody_follows() -> None:
    """Not before the first search that follows, and not when the last cookie is older than what is remembered."""
    feeds = Feeds(KEY, keep=2)
    snapshots = [build(changed(1, "alice", f"{number}@x.io")) for number in range(6)]
    feeds.offer({1: snapshots[0]})
    feed = feeds.of(1)
    assert feed is not None
    before = feed.identity
    assert feeds.offer({1: snapshots[1]}) == ([], [])
    assert feed.snapshot is snapshots[1]
    assert feed.identity != before
    feed.idle = 0
    for snapshot in snapshots[2:4]:
        assert feeds.offer({1: snapshot}) == ([feed], [])
        feed.publish(snapshot, compare(feed.snapshot, snapshot))
        feed.offered = None
    assert feed.log.since(before) is None
    assert feeds.offer({1: snapshots[4]}) == ([], [])
    assert feed.snapshot is snapshots[4]


@pytest.mark.parametrize(
    ("text", "far", "counts"),
    [
        ("(cn=a)", False, False),
        ("(&(cn=a)(!(memberOf:1.2.840.113556.1.4.1941:=cn=x)))", True, False),
        ("(|(numSubordinates>=1)(cn=*))", False, True),
    ],
)
def test_what_filters_depend_on(text: str, far: bool, counts: bool) -> None:
    """Other entries, or the number of entries below."""
    node = search_request(2, text=text).filter
    assert reaches_far(node) is far
    assert names_any(node, frozenset({"numsubordinates"})) is counts
