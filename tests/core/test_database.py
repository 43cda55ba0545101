"""Storage: migrations, transactions and notifications, look-ups, groups, tokens, sessions, and the cost of a page."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import lookups
from core.database import Change, Database, merge, model_name
from core.database.schema import STEPS, TABLES
from core.errors import DatabaseError, NotFound, ValidationFailed
from core.models import (
    INTENT_API,
    INTENT_APP_PASSWORD,
    Application,
    Blueprint,
    Brand,
    Event,
    Flow,
    Group,
    Outpost,
    Provider,
    Session,
    Stage,
    StageBinding,
    Token,
    User,
)

DATA = Path(__file__).parent.parent / "data" / "core"


class Clock:
    """Time that stands until it is set."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def statements(database: Database) -> list[str]:
    """Every statement from here on."""
    seen: list[str] = []
    database._connection.set_trace_callback(seen.append)
    return seen


# --- migrations -------------------------------------------------------------------------------------------------------


def test_every_record_fits_its_table() -> None:
    """Columns of the schema are the fields of the records, no more and no fewer."""
    database = Database(":memory:")
    for table in TABLES.values():
        columns = {row["name"] for row in database.sql(f'PRAGMA table_info("{table.name}")')}
        assert columns == set(table.columns), table.name
        for many in table.many.values():
            assert {row["name"] for row in database.sql(f'PRAGMA table_info("{many.table}")')} == {"own", "other"}


def test_a_file_of_the_first_release_opens(tmp_path: Path) -> None:
    """A file written with step 1 as it was released is brought up to date and keeps its data; twice is once."""
    path = tmp_path / "core.sqlite3"
    connection = sqlite3.connect(path)
    connection.create_function("casefold", 1, str.casefold, deterministic=True)
    connection.executescript((DATA / "step-1.sql").read_text())
    connection.close()
    for _ in range(2):
        database = Database(path)
        user = database.first(User, username="old")
        assert user is not None
        assert [group.name for group in user.all_groups()] == ["child", "parent"]
        assert user.attributes == {"upn": "old@example.org"}
        assert database.sql("SELECT max(step) FROM migration")[0][0] == len(STEPS)
        fresh = Database(":memory:")
        schema = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
        squeezed = [[(name, "".join(sql.split())) for name, sql in store.sql(schema)] for store in (database, fresh)]
        assert squeezed[0] == squeezed[1]
        database.close()


def test_steps_run_once_and_a_failing_one_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New steps run on an old file, in one transaction."""
    path = tmp_path / "core.sqlite3"
    Database(path).close()
    monkeypatch.setattr("core.database.store.STEPS", (*STEPS, "CREATE TABLE one (a TEXT);\nCREATE TABLE one (a TEXT);"))
    with pytest.raises(DatabaseError):
        Database(path)
    monkeypatch.setattr("core.database.store.STEPS", (*STEPS, "CREATE TABLE one (a TEXT);\n"))
    for _ in range(2):
        database = Database(path)
        assert database.sql("SELECT count(*) FROM one")[0][0] == 0
        database.close()


def test_a_newer_or_foreign_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No guessing with a file that this version does not know."""
    path = tmp_path / "core.sqlite3"
    Database(path).close()
    monkeypatch.setattr("core.database.store.STEPS", ())
    with pytest.raises(DatabaseError, match="newer"):
        Database(path)
    foreign = tmp_path / "text"
    foreign.write_text("this is not a database, but it is long enough to have a header" * 20)
    with pytest.raises(DatabaseError):
        Database(foreign)


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """Hashes and keys are inside."""
    path = tmp_path / "core.sqlite3"
    database = Database(path)
    database.save(User(username="u"))
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    database.close()


# --- transactions and notifications -----------------------------------------------------------------------------------


def test_changes_are_told_after_the_commit_and_never_for_what_was_undone() -> None:
    """A listener sees committed state only."""
    database, seen = Database(":memory:"), []

    def listen(change: Change) -> None:
        seen.append((change.model.__name__, change.kind, database.count(User)))

    database.on_change(listen)

    def save_all(*names: str) -> None:
        with database.transaction():
            for name in names:
                database.save(User(username=name))

    with pytest.raises(ValidationFailed):
        save_all("gone", "")
    assert seen == []
    with database.transaction():
        database.save(User(username="a"))
        with pytest.raises(ValidationFailed):
            save_all("b", "a")
        assert seen == []
    assert seen == [("User", "created", 1)]
    assert [user.username for user in database.find(User)] == ["a"]


def test_deleting_a_provider_tells_its_outposts() -> None:
    """The outpost's list of providers changes with it."""
    database, seen = Database(":memory:"), []
    provider = database.save(Provider(type="authentik_providers_ldap.ldapprovider", name="p"))
    outpost = database.save(Outpost(name="o", type="ldap", providers=[provider.pk or 0]))
    database.on_change(lambda change: seen.append((change.model, change.pk)))
    database.delete(provider)
    assert (Outpost, outpost.pk) in seen
    assert database.get(Outpost, outpost.pk).providers == []


def test_broken_rules_name_their_fields() -> None:
    """Unique, reference and choice rules come out as fields, without values."""
    database = Database(":memory:")
    flow = Flow(name="f", slug="f", title="f", designation="authentication")
    database.save(flow)
    stage = database.save(Stage(type="t", name="s"))
    database.save(StageBinding(target=flow.pk, stage=stage.pk, order=0))
    cases: list[tuple[Any, str]] = [
        (Flow(name="g", slug="f", title="g", designation="authentication"), "slug"),
        (Flow(name="g", slug="a b", title="g", designation="authentication"), "slug"),
        (Flow(name="g", slug="g", title="g", designation="x"), "designation"),
        (User(username=""), "username"),
        (User(username="x" * 151), "username"),
        (User(username="p", path="a//b"), "path"),
        (User(username="p", type="alien"), "type"),
        (StageBinding(target=flow.pk, stage=stage.pk, order=0), "non_field_errors"),
        (StageBinding(target=flow.pk, stage="gone", order=1), "non_field_errors"),
        (Token(identifier="t", user=99), "non_field_errors"),
    ]
    for record, field in cases:
        with pytest.raises(ValidationFailed) as caught:
            database.save(record)
        assert list(caught.value.fields) == [field]


# --- look-ups ---------------------------------------------------------------------------------------------------------

_TEXTS = st.text("aAbBäÄßI ", max_size=4)
_OPERATORS = sorted(lookups.OPERATORS - {"in", "isnull", "regex", "iregex", "gt", "gte", "lt", "lte"})


@settings(max_examples=150, deadline=None)
@given(st.lists(_TEXTS, min_size=1, max_size=5), st.sampled_from(_OPERATORS), _TEXTS, st.booleans())
def test_the_database_finds_what_memory_finds(names: list[str], operator: str, wanted: str, inner: bool) -> None:
    """Columns and paths inside JSON: SQL and the in-memory look-up agree."""
    database = Database(":memory:")
    users = [
        database.save(User(username=f"u{index}", name=name, attributes={"x": {"y": name}}))
        for index, name in enumerate(names)
    ]
    filters = {f"{'attributes__x__y' if inner else 'name'}__{operator}": wanted}
    expected = [user.username for user in users if lookups.matches(user, filters)]
    assert sorted(user.username for user in database.find(User, **filters)) == sorted(expected)
    assert database.count(User, **filters) == len(expected)
    database.close()


def test_other_lookups() -> None:
    """Lists, ranges, null, regular expressions, related lists, order, limits."""
    database = Database(":memory:")
    group = database.save(Group(name="g"))
    for index in range(5):
        database.save(User(username=f"u{index}", attributes={"n": index}, group_pks=[group.pk] if index % 2 else []))

    def names(**filters: Any) -> list[str]:
        return [user.username for user in database.find(User, **filters)]

    assert names(username__in=["u1", "u3", "nobody"]) == ["u1", "u3"]
    assert names(attributes__n__gte=3) == ["u3", "u4"]
    assert names(attributes__n=2) == ["u2"]
    assert names(attributes__gone__isnull=True, username="u0") == ["u0"]
    assert names(username__regex="u[0-1]$") == ["u0", "u1"]
    assert names(group_pks=group.pk) == names(group_pks__in=[group.pk]) == ["u1", "u3"]
    assert names(group_pks__isnull=True) == ["u0", "u2", "u4"]
    assert names(order_by="-username", limit=2, offset=1) == ["u3", "u2"]
    assert names(group_pks=group.pk, limit=1, offset=1) == ["u3"]
    assert database.first(User, username="nobody") is None
    with pytest.raises(NotFound):
        database.get(User, 99)
    for wrong in ({"nope": 1}, {"username__x": 1}, {"group_pks__gt": 1}, {'attributes__a"b': 1}):
        with pytest.raises(ValueError):
            database.find(User, **wrong)
    with pytest.raises(ValueError):
        database.find(User, order_by="pk; DROP TABLE user")


def test_text_in_lookups_is_data() -> None:
    """Quotes and wildcards have no meaning."""
    database = Database(":memory:")
    database.save(User(username="it's", attributes={"it's": "50%_"}))
    for filters in (
        {"username": "it's"}, {"username__icontains": "'"}, {"attributes__it's": "50%_"},
        {"attributes__it's__contains": "%"},
    ):  # fmt: skip
        assert database.count(User, **filters) == 1
    assert database.count(User, username__contains="%") == 0


def test_login_names() -> None:
    """Username, e-mail and upn as the stage allows; an exact match wins over a folded one."""
    database = Database(":memory:")
    lower = database.save(User(username="jane", email="Jane@Example.org", attributes={"upn": "j@corp"}))
    upper = database.save(User(username="JANE"))
    umlaut = database.save(User(username="müller"))
    find = database.user_by_login
    assert find("JANE", ["username"]) == upper
    assert find("jane", ["username"]) == lower
    assert find("Jane", ["username"]) == lower
    assert find("Jane", ["username"], case_insensitive=False) is None
    assert find("MÜLLER", ["username"]) == umlaut
    assert find("jane@example.ORG", ["username"]) is None
    assert find("jane@example.ORG", ["username", "email"]) == lower
    assert find("J@corp", ["upn"]) == lower
    assert find("", ["email"]) is None  # users without address are not found by no text


def test_case_insensitive_login_uses_an_index() -> None:
    """At 100,000 users a login must not read them all."""
    database = Database(":memory:")
    for column in (
        "casefold(username)",
        "casefold(email)",
        "username",
        "email",
        "json_extract(attributes, '$.\"upn\"')",
        "casefold(json_extract(attributes, '$.\"upn\"'))",
    ):
        plan = database.sql(f"EXPLAIN QUERY PLAN SELECT pk FROM user WHERE {column} = 'x'")
        assert "SEARCH" in plan[0]["detail"], column
    database.save(User(username="u"))
    seen = statements(database)
    database.user_by_login("nobody", ["username", "email", "upn"])
    for statement in [text for text in seen if text.startswith("SELECT")]:
        assert "SEARCH" in database.sql("EXPLAIN QUERY PLAN " + statement)[0]["detail"], statement


# --- groups -----------------------------------------------------------------------------------------------------------


def test_membership_follows_every_change_of_the_tree() -> None:
    """Adding, moving and deleting groups in the middle keeps ancestors right; circles are refused."""
    database = Database(":memory:")
    root = database.save(Group(name="root", is_superuser=True))
    middle = database.save(Group(name="middle"))
    leaf = database.save(Group(name="leaf", parents=[middle.pk]))
    side = database.save(Group(name="side"))
    user = database.save(User(username="u", group_pks=[leaf.pk]))

    def seen() -> tuple[list[str], bool]:
        fresh = database.get(User, user.pk)
        return [group.name for group in fresh.all_groups()], fresh.is_superuser

    assert seen() == (["leaf", "middle"], False)
    middle.parents = [root.pk, side.pk]
    database.save(middle)
    assert seen() == (["leaf", "middle", "root", "side"], True)
    assert [member.username for member in database.members(root.pk, inherited=True)] == ["u"]
    assert database.members(root.pk) == []
    root.parents = [leaf.pk]
    with pytest.raises(ValidationFailed, match="above itself"):
        database.save(root)
    side.parents = [side.pk]
    with pytest.raises(ValidationFailed, match="above itself"):
        database.save(side)
    assert seen() == (["leaf", "middle", "root", "side"], True)
    database.delete(middle)
    assert seen() == (["leaf"], False)


def test_merged_attributes() -> None:
    """Brand, groups by name with ancestors, user: later wins, mappings merge, lists are joined."""
    database = Database(":memory:")
    parent = database.save(Group(name="a", attributes={"x": 1, "l": [1], "d": {"p": 1, "q": 1}}))
    child = database.save(Group(name="b", parents=[parent.pk], attributes={"x": 2, "l": [2], "d": {"q": 2}}))
    user = database.save(User(username="u", group_pks=[child.pk], attributes={"x": 3, "d": {"r": 3}}))
    merged = database.merged_attributes(user, {"brand": True, "x": 0})
    assert merged == {"brand": True, "x": 3, "l": [1, 2], "d": {"p": 1, "q": 2, "r": 3}}
    base: dict[str, Any] = {"a": [1]}
    merge(base, {"a": {"b": 1}})
    assert base == {"a": {"b": 1}}


def test_num_pk_is_the_first_five_digits() -> None:
    """As a recorded core computed it for the same UUID."""
    assert Group(pk="79a7c375-65e1-40fe-beb1-a3e43d7a28e2", name="staff").num_pk == 16170


def test_uid_depends_on_key_and_installation() -> None:
    """64 hex digits, stable, different elsewhere."""
    one, two = Database(":memory:"), Database(":memory:")
    first, second = one.save(User(username="u")), two.save(User(username="u"))
    assert first.pk == second.pk
    assert first.uid != second.uid
    assert len(first.uid) == 64
    assert one.get(User, first.pk).uid == first.uid


# --- tokens and sessions ----------------------------------------------------------------------------------------------


def test_expired_tokens_are_invisible_and_rotate_or_go() -> None:
    """API keys get a new key, app passwords are deleted; what does not expire stays."""
    clock = Clock()
    database = Database(":memory:", clock=clock)
    user = database.save(User(username="u"))
    pk = user.pk or 0
    api = database.save(Token(identifier="a", intent=INTENT_API, user=pk, expires=clock.now + 10))
    app = database.save(Token(identifier="b", intent=INTENT_APP_PASSWORD, user=pk, expires=clock.now + 10))
    kept = database.save(Token(identifier="c", intent=INTENT_API, user=pk, expiring=False, expires=clock.now + 10))
    default = database.save(Token(identifier="d", intent=INTENT_API, user=pk))
    assert default.expires == clock.now + 24 * 3600
    assert len(api.key) == 60
    assert api.key.isalnum()
    assert database.user_by_api_key(api.key) == user
    assert database.user_by_api_key(app.key) is None
    assert database.app_password(user, app.key) == app
    assert database.app_password(database.save(User(username="v")), app.key) is None
    assert database.app_password(user, "") is None
    clock.now += 10
    assert database.user_by_api_key(api.key) is None
    assert database.app_password(user, app.key) is None
    database.expire()
    rotated = database.get(Token, api.pk)
    assert rotated.key != api.key
    assert database.user_by_api_key(rotated.key) == user
    assert database.sql("SELECT count(*) FROM token WHERE pk = ?", (app.pk,))[0][0] == 0
    assert database.user_by_api_key(kept.key) == user
    user.is_active = False
    database.save(user)
    assert database.user_by_api_key(kept.key) is None


def test_ended_sessions_are_told() -> None:
    """By expiry, deactivation, deletion and on request; a password change tells nothing."""
    clock = Clock()
    database, ended = Database(":memory:", clock=clock), []
    database.on_change(
        lambda change: ended.append(change.pk) if (change.model, change.kind) == (Session, "deleted") else None
    )
    user = database.save(User(username="u"))
    for pk in "abcd":
        database.save(Session(pk=pk, user=user.pk, expires=clock.now + 10 if pk == "a" else None))
    clock.now += 10
    assert database.first(Session, pk="a") is None
    database.expire()
    assert ended == ["a"]
    assert database.end_sessions(user.pk or 0, keep="b") == 2
    assert ended == ["a", "c", "d"]
    user.password_hash = "$argon2id$x"
    database.save(user)
    assert ended[3:] == []
    user.is_active = False
    database.save(user)
    assert ended[3:] == ["b"]
    database.save(Session(pk="e", user=user.pk))
    database.delete(user)
    assert ended[4:] == ["e"]


# --- brands, providers, reputation, events ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("x.a.b", "a.b"), ("A.B:9000", "a.b"), ("a.b", "a.b"), ("xa.b", "b"), ("b", "b"), ("c", "other"),
        ("[::1]:9000", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_18_the_longest_matching_brand(host: str, domain: str) -> None:
    """Equal or dot-suffix, longest first, port ignored, else the default; one default at most."""
    database = Database(":memory:")
    assert not database.brand_for("x").stored
    for name, default in (("b", True), ("a.b", False), ("other", True)):
        database.save(Brand(domain=name, default=default))
    assert database.brand_for(host).domain == domain
    assert database.count(Brand, default=True) == 1


def test_the_back_channel_application_wins() -> None:
    """Alone and in bulk."""
    database = Database(":memory:")
    one, two, three = (
        database.save(Provider(type="authentik_providers_ldap.ldapprovider", name=name)).pk or 0 for name in "abc"
    )
    front = database.save(Application(name="f", slug="f", provider=one))
    back = database.save(Application(name="b", slug="b", backchannel_providers=[one]))
    other = database.save(Application(name="o", slug="o", provider=two))
    assert database.application_of(one) == back
    assert database.application_of(two) == other
    assert database.application_of(three) is None
    assert database.applications_of([one, two, three]) == {one: back, two: other}
    database.delete(back)
    assert database.application_of(one) == front


def test_reputation_is_clamped_and_fades() -> None:
    """±5 per name and address, summed over rows, gone after a day."""
    clock = Clock()
    database = Database(":memory:", clock=clock)
    assert [database.change_reputation("u", "::1", by) for by in (-1, -9, 1)] == [-1, -5, -4]
    assert database.change_reputation("u", "::2", 9) == 5
    assert database.reputation(identifier="u", ip=None) == 1
    assert database.reputation(identifier=None, ip="::1") == -4
    assert database.reputation(identifier=None, ip=None) == 0
    clock.now += 24 * 3600
    assert database.reputation(identifier="u", ip=None) == 0
    assert database.change_reputation("u", "::1", -1) == -1


def test_events_say_who_and_when() -> None:
    """A user is described, not referenced, so an event outlives the user."""
    clock = Clock()
    database = Database(":memory:", clock=clock)
    user = database.save(User(username="u", email="u@example.org"))
    event = database.log_event("login", "core", user=user, client_ip="::1", context={"x": 1})
    database.delete(user)
    assert database.get(Event, event.pk).user == {"pk": user.pk, "username": "u", "email": "u@example.org"}


def test_secrets_do_not_show() -> None:
    """``repr`` of records hides hashes, keys and codes."""
    shown = repr([User(username="u", password_hash="s3cret"), Token(identifier="t", user=1, key="s3cret")])
    assert "s3cret" not in shown
    assert model_name(Blueprint(name="x")) == "authentik_blueprints.blueprintinstance"


def test_a_page_of_users_costs_a_fixed_number_of_statements() -> None:
    """No query per user, whatever the number of groups."""
    database = Database(":memory:")
    groups = [database.save(Group(name=f"g{index}")).pk for index in range(7)]
    with database.transaction():
        for index in range(60):
            database.save(User(username=f"u{index:03}", group_pks=groups[: index % 7]))
    counts = []
    for limit in (10, 60):
        seen = statements(database)
        users = database.find(User, limit=limit)
        database.get_many(Group, {pk for user in users for pk in user.group_pks})
        counts.append(len(seen))
    assert counts[0] == counts[1] <= 8


def test_users_are_kept_until_something_changes() -> None:
    """What is kept never outlives a change of the user or of a group; what one caller does no other sees."""
    database = Database(":memory:")
    group = database.save(Group(name="roots"))
    pk = database.save(User(username="jane", attributes={"a": [1]}, group_pks=[group.pk])).pk

    def user() -> User:
        found = database.user(pk)
        assert found is not None
        return found

    first = user()
    first.attributes["a"].append(2)
    first.group_pks.clear()
    first.backend = "x"  # type: ignore[attr-defined]
    assert (user().attributes, user().group_pks, hasattr(user(), "backend")) == ({"a": [1]}, [group.pk], False)
    group.is_superuser = True
    database.save(group)
    assert user().is_superuser
    changed = database.get(User, pk)
    changed.is_active = False
    with database.transaction():
        database.save(changed)
        assert not user().is_active
    assert not user().is_active
    changed.is_active = True
    with contextlib.suppress(ZeroDivisionError), database.transaction():
        database.save(changed)
        assert user().is_active
        raise ZeroDivisionError
    assert not user().is_active
    database.note_login(user(), 5.0)
    assert user().last_login == 5.0
    database.delete(group)
    assert (user().is_superuser, user().group_pks) == (False, [])
    database.delete(user())
    assert database.user(pk) is None


def test_brands_are_kept_until_something_changes() -> None:
    """A saved, deleted or rolled back brand shows at once, and so does a deleted flow that it named."""
    database = Database(":memory:")
    assert database.brand_for("x.test").domain == "fallback"
    flow = database.save(Flow(name="f", slug="f", title="f", designation="authentication"))
    brand = database.save(Brand(domain="x.test", flow_authentication=flow.pk))
    assert database.brand_for("a.x.test").flow_authentication == flow.pk
    database.delete(flow)
    assert database.brand_for("x.test").flow_authentication is None
    with contextlib.suppress(ZeroDivisionError), database.transaction():
        database.delete(brand)
        assert database.brand_for("x.test").domain == "fallback"
        raise ZeroDivisionError
    assert database.brand_for("x.test").domain == "x.test"
