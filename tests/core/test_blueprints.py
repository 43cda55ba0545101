"""Blueprint loader: states, transaction, ownership, the models, and the package's own blueprints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core import passwords
from core.blueprints import Blueprints, default_documents
from core.database import Database, record_key
from core.errors import BlueprintError
from core.models import (
    Application,
    Blueprint,
    Brand,
    Flow,
    Group,
    Model,
    Outpost,
    Policy,
    PolicyBinding,
    Provider,
    Role,
    Stage,
    StageBinding,
    StaticDevice,
    Token,
    TOTPDevice,
    User,
)
from core.policies import POLICY_TYPES
from core.stages import STORABLE


def loader(environ: dict[str, str] | None = None) -> Blueprints:
    """A loader over an empty database."""
    return Blueprints(Database(":memory:"), STORABLE, POLICY_TYPES, environ=environ or {})


def entry(model: str, identifiers: str, attrs: str = "{}", more: str = "") -> str:
    """One entry as text."""
    return f"  - model: {model}\n    identifiers: {identifiers}\n    attrs: {attrs}\n" + (
        f"    {more}\n" if more else ""
    )


def apply(blueprints: Blueprints, *entries: str, **more: Any) -> dict[str, Any]:
    """Apply entries as one blueprint."""
    return blueprints.apply("version: 1\nmetadata: {name: test}\nentries:\n" + "".join(entries), "test.yaml", **more)


def everything(database: Database) -> dict[type[Model], list[Model]]:
    """All records that blueprints make."""
    kinds: tuple[type[Model], ...] = (
        Flow, Stage, StageBinding, Policy, PolicyBinding, Brand, User, Group, Token, Role, Provider, Application,
        Outpost,
    )  # fmt: skip
    return {kind: database.find(kind) for kind in kinds}


def test_89_defaults_twice_are_the_same_objects() -> None:
    """The second time nothing is made, changed or told."""
    blueprints = loader()
    blueprints.apply_defaults(password="first", token="token-1")
    before, seen = everything(blueprints.database), []
    blueprints.database.on_change(seen.append)
    blueprints.apply_defaults(password="second", token="token-2")
    assert seen == []
    assert everything(blueprints.database) == before
    admin = blueprints.database.user_by_api_key("token-1")
    assert admin is not None
    assert admin.is_superuser
    assert passwords.verify(admin.password_hash, "first")


def test_the_default_flows() -> None:
    """Stages and orders of flows.md §5.13; both policies let the stage run when they fail."""
    blueprints = loader()
    blueprints.apply_defaults()
    database = blueprints.database

    def stages(slug: str) -> list[tuple[int, str]]:
        flow = database.flow_by_slug(slug)
        assert flow is not None
        return [(binding.order, stage.type.split(".")[0]) for binding, stage in database.stages_of(flow.pk)]

    assert stages("default-authentication-flow") == [
        (10, "authentik_stages_identification"),
        (20, "authentik_stages_password"),
        (30, "authentik_stages_authenticator_validate"),
        (100, "authentik_stages_user_login"),
    ]
    assert stages("default-invalidation-flow") == [(0, "authentik_stages_user_logout")]
    assert stages("default-provider-invalidation-flow") == []
    assert stages("default-provider-authorization-implicit-consent") == []
    assert [binding.failure_result for binding in database.find(PolicyBinding)] == [True, True]
    brand = database.brand_for("anything")
    assert brand.default
    assert database.get(Flow, brand.flow_authentication).slug == "default-authentication-flow"
    admin = database.first(User, username="akadmin")
    assert admin is not None
    assert not admin.has_usable_password()  # without a bootstrap password nobody can log in with one
    assert [name for name, _ in default_documents()] == sorted(name for name, _ in default_documents())


def test_90_a_failing_entry_undoes_all() -> None:
    """One transaction, also for what earlier entries deleted or granted, and nothing is told."""
    blueprints, seen = loader(), []
    database = blueprints.database
    kept = database.save(Group(name="kept"))
    database.on_change(seen.append)
    with pytest.raises(BlueprintError) as caught:
        apply(
            blueprints,
            entry("authentik_core.group", "{name: kept}", more="state: absent"),
            entry("authentik_core.user", "{username: u}", "{permissions: [a.b]}"),
            entry("authentik_core.user", "{username: v}", "{type: alien}", "id: bad"),
        )
    assert database.find(Group) == [kept]
    assert database.count(User) == database.count(Role) == database.count(Blueprint) == 0
    assert seen == []
    error = caught.value
    assert (error.file, error.line, error.entry, error.field) == ("test.yaml", 11, "bad (authentik_core.user)", "type")


def test_90_created_leaves_alone_and_present_updates() -> None:
    """``present`` upserts, ``created`` only makes, ``must_created`` refuses, ``absent`` deletes."""
    blueprints = loader()

    def named(state: str, name: str) -> str:
        return entry("authentik_core.user", "{username: u}", f"{{name: {name}}}", f"state: {state}")

    def name_now() -> str | None:
        user = blueprints.database.first(User, username="u")
        return user.name if user else None

    apply(blueprints, named("created", "one"))
    apply(blueprints, named("created", "two"))
    assert name_now() == "one"
    apply(blueprints, named("present", "two"))
    assert name_now() == "two"
    with pytest.raises(BlueprintError, match="exists"):
        apply(blueprints, named("must_created", "three"))
    apply(blueprints, named("absent", "x"), named("absent", "x"), named("must_created", "three"))
    assert name_now() == "three"
    with pytest.raises(BlueprintError, match="state"):
        apply(blueprints, named("perhaps", "x"))


def test_conditions_skip_an_entry() -> None:
    """All must be truthy; a skipped entry has no id."""
    blueprints = loader({"ON": "1"})
    apply(
        blueprints,
        entry("authentik_core.group", "{name: a}", more="conditions: [!Env ON]"),
        entry("authentik_core.group", "{name: b}", more="conditions: [!Env ON, !Env OFF]"),
    )
    assert [group.name for group in blueprints.database.find(Group)] == ["a"]


def test_given_keys_are_kept_and_older_ones_rewritten() -> None:
    """A new object gets the given key; if another matched, later references to the written key mean that one."""
    blueprints = loader()
    pk = "0b6d6c6e-0000-4000-8000-000000000001"
    apply(
        blueprints,
        entry("authentik_core.user", "{pk: 5, username: alice}"),
        entry("authentik_core.group", f"{{pk: {pk}, name: staff}}"),
    )
    database = blueprints.database
    assert database.get(User, 5).username == "alice"
    assert database.get(Group, pk).name == "staff"
    written = "0b6d6c6e-0000-4000-8000-000000000002"
    apply(
        blueprints,
        entry("authentik_core.group", f"{{pk: {written}, name: staff}}", "{attributes: {a: 1}}"),
        entry("authentik_core.user", "{username: bob}", f"{{groups: [{written}]}}"),
    )
    assert [group.pk for group in database.find(Group)] == [pk]
    bob = database.first(User, username="bob")
    assert bob is not None
    assert bob.group_pks == [pk]


def test_dictionary_identifiers_are_contained() -> None:
    """A user is found by a part of its attributes."""
    blueprints = loader()
    database = blueprints.database
    user = database.save(User(username="u", attributes={"ids": {"hr": 7, "x": 1}, "y": 2}))
    apply(blueprints, entry("authentik_core.user", "{attributes: {ids: {hr: 7}}}", "{name: found}"))
    assert database.get(User, user.pk).name == "found"


def test_objects_of_a_file_are_owned(tmp_path: Path) -> None:
    """``present`` ones by the file, ``created`` ones by nobody; what leaves the file is released."""
    blueprints, path = loader(), tmp_path / "mine.yaml"
    head = "version: 1\nentries:\n"
    group, flow = entry("authentik_core.group", "{name: g}"), entry("authentik_core.group", "{name: h}")
    path.write_text(head + group + flow + entry("authentik_core.group", "{name: free}", more="state: created"))
    blueprints.apply_file(path)

    def owners() -> dict[str, str | None]:
        return {item.name: blueprints.database.owner_of(item) for item in blueprints.database.find(Group)}

    assert owners() == {"g": str(path), "h": str(path), "free": None}
    path.write_text(head + group)
    blueprints.apply_file(path)
    assert owners() == {"g": str(path), "h": None, "free": None}
    for broken in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(BlueprintError):
            blueprints.apply_file(broken)
    path.write_bytes(b"version: 1\n# \xff\n")
    with pytest.raises(BlueprintError, match="UTF-8"):
        blueprints.apply_file(path)


def test_applying_again_hashes_and_tells_nothing() -> None:
    """An unchanged password keeps its hash; a changed one gets a new hash and date."""
    salts: list[int] = []
    database = Database(":memory:")
    blueprints = Blueprints(
        database, STORABLE, POLICY_TYPES, environ={}, salt=lambda size: salts.append(size) or bytes(size)
    )

    def with_password(password: str) -> User:
        apply(blueprints, entry("authentik_core.user", "{username: u}", f"{{password: {password}}}"))
        user = database.first(User, username="u")
        assert user is not None
        assert passwords.verify(user.password_hash, password)
        return user

    first = with_password("one-1")
    seen: list[object] = []
    database.on_change(seen.append)
    assert with_password("one-1").password_hash == first.password_hash
    assert seen == []
    assert salts == [passwords.SALT_BYTES]
    assert with_password("two-2").password_hash != first.password_hash
    assert len(salts) == 2


def test_the_whole_set_of_models() -> None:
    """One blueprint with everything that headless logins need, applied twice without a change."""
    blueprints = loader()
    blueprints.apply_defaults()
    database, text = blueprints.database, (Path(__file__).parent.parent / "data" / "core" / "headless.yaml").read_text()
    blueprints.apply(text, "headless.yaml", owner="headless.yaml")
    before, seen = everything(database), []
    database.on_change(seen.append)
    blueprints.apply(text, "headless.yaml", owner="headless.yaml")
    assert seen == []
    assert everything(database) == before

    alice = database.get(User, 5)
    assert [group.name for group in alice.all_groups()] == ["everyone", "staff"]
    token = database.app_password(alice, "alice-app-password-key-1")
    assert token is not None
    assert token.expires is None
    bob = database.first(User, username="bob")
    assert bob is not None
    static, totp = database.devices_of(bob.pk or 0)
    assert isinstance(totp, TOTPDevice)
    assert bytes.fromhex(totp.key) == b"12345678901234567890"
    assert isinstance(static, StaticDevice)
    assert static.tokens == ["static01", "static02"]
    provider = database.first(Provider, name="LDAP")
    assert provider is not None
    assert provider.options["search_mode"] == "cached"
    assert provider.options["uid_start_number"] == 2000
    key = record_key(provider)
    permission = "authentik_providers_ldap.search_full_directory"
    service = database.first(User, username="ldapservice")
    assert service is not None
    assert database.has_permission(service.pk, permission, key)
    assert database.has_permission(alice.pk, permission, key)  # the older search_group of the provider
    assert not database.has_permission(bob.pk, permission, key)
    application = database.application_of(provider.pk or 0)
    assert application is not None
    assert [binding.group for binding in database.bindings_of(application.pk)] == [alice.group_pks[0]]
    outpost = database.first(Outpost, name="LDAP outpost")
    assert outpost is not None
    assert outpost.config["authentik_host"] == "http://localhost:9080"
    assert outpost.config["refresh_interval"] == "minutes=5"
    assert database.outpost_of(database.user_by_api_key(database.outpost_token("LDAP outpost")) or bob) == outpost
    for name in ("RADIUS", "Proxy", "OAuth"):
        assert database.exists(Provider, name=name)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (entry("authentik_core.user", "{username: u}", "{nam: x}"), "nam"),
        (entry("authentik_core.user", "{usernam: u}"), "identifiers"),
        (entry("authentik_core.user", "{username: u}", "{is_active: maybe}"), "is_active"),
        (entry("authentik_core.user", "{username: u}", "{is_superuser: true}"), "is_superuser"),
        (entry("authentik_core.user", "{username: u}", "{password_hash: x}"), "password_hash"),
        (entry("authentik_core.user", "{name: u}"), "username"),
        (entry("authentik_core.user", "{username: u}", "{groups: [no-such-group]}"), "non_field_errors"),
        (entry("authentik_core.user", "{username: u}", "{attributes: [1]}"), "attributes"),
        (entry("authentik_core.user", "{username: u}", "{permissions: [nonsense]}"), "permissions"),
        (entry("authentik_core.group", "{name: g}", more="permissions: [{permission: a.b}]"), "permissions"),
        (entry("authentik_core.group", "{name: g}", more="permissions: [{permission: a.b, user: 99}]"), "permissions"),
        (entry("authentik_core.token", "{identifier: t}", "{user: 99}"), "non_field_errors"),
        (entry("authentik_core.authenticatedsession", "{pk: t}"), "model"),
        (entry("authentik_core.provider", "{name: t}"), "model"),
        (entry("authentik_stages_source.sourcestage", "{name: s}"), "model"),
        (entry("authentik_stages_dummy.dummystage", "{name: s}", "{throw_error: maybe}"), "throw_error"),
        (entry("authentik_stages_dummy.dummystage", "{name: s}", "{unknown: 1}"), "unknown"),
        (entry("authentik_policies_expression.expressionpolicy", "{name: p}", "{expression: 'retur 1'}"), "expression"),
        (entry("authentik_policies_expression.expressionpolicy", "{name: p}"), "expression"),
        (entry("authentik_providers_ldap.ldapprovider", "{name: p}", "{bind_mode: odd}"), "bind_mode"),
        (entry("authentik_flows.flow", "{slug: 'a b'}", "{name: a, designation: recovery}"), "slug"),
        (entry("authentik_flows.flow", "{slug: a}", "{name: a, designation: odd}"), "designation"),
        (entry("authentik_outposts.outpost", "{name: o}", "{type: ldap, providers: [99]}"), "non_field_errors"),
        (entry("authentik_core.group", "{name: g}", "5"), "attrs"),
        (entry("authentik_core.group", "{name: g}", "{attributes: {x: !KeyOf gone}}"), "attributes"),
        (entry("authentik_core.group", "{name: g}", more="stat: present"), "stat"),
        (entry("authentik_blueprints.metaapplyblueprint", "{name: Nowhere}"), "name"),
        (entry("authentik_stages_authenticator_totp.totpdevice", "{name: t}", "{user: 1, key: xyz}"), "key"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(text: str, field: str) -> None:
    """File, line, entry and field of each mistake; the database stays as it was."""
    blueprints = loader()
    with pytest.raises(BlueprintError) as caught:
        apply(blueprints, text)
    assert caught.value.file == "test.yaml"
    assert caught.value.line == 4 or "KeyOf" in text
    assert caught.value.entry
    assert next(iter(caught.value.fields)) == field
    assert sum(map(len, everything(blueprints.database).values())) == 0


def test_what_is_not_offered_may_be_optional() -> None:
    """An entry may say that it can be left out; an unknown model may not."""
    blueprints = loader()
    apply(blueprints, entry("authentik_stages_source.sourcestage", "{name: s}", more="optional: true"))
    with pytest.raises(BlueprintError, match="unknown model"):
        apply(blueprints, entry("authentik_nonsense.thing", "{name: s}", more="optional: true"))


def test_a_secret_is_not_in_an_error() -> None:
    """Messages name fields, not values."""
    with pytest.raises(BlueprintError) as caught:
        apply(loader(), entry("authentik_core.token", "{identifier: t}", "{key: s3cret-key, user: 99}"))
    assert "s3cret" not in str(caught.value) + repr(caught.value.fields)


def test_validation_is_a_dry_run() -> None:
    """A good blueprint leaves nothing behind, a bad one raises."""
    blueprints = loader()
    blueprints.validate("version: 1\nentries:\n" + entry("authentik_core.group", "{name: g}"), "t")
    assert blueprints.database.count(Group) == 0
    with pytest.raises(BlueprintError):
        blueprints.validate("version: 1\nentries:\n" + entry("authentik_core.group", "{nam: g}"), "t")


def test_another_blueprint_comes_first() -> None:
    """``metaapplyblueprint`` applies one of the package's own; an optional missing one is passed over."""
    blueprints = loader()
    apply(
        blueprints,
        entry("authentik_blueprints.metaapplyblueprint", "{name: Default - Invalidation flow}"),
        entry("authentik_blueprints.metaapplyblueprint", "{name: Nowhere}", "{required: false}"),
        entry(
            "authentik_tenants.tenant", "{domain: d}",
            "{flow_invalidation: !Find [authentik_flows.flow, [slug, default-invalidation-flow]]}",
        ),
    )  # fmt: skip
    assert blueprints.database.brand_for("d").flow_invalidation


def test_older_group_parent() -> None:
    """A single ``parent`` becomes one of the parents."""
    blueprints = loader()
    apply(
        blueprints,
        entry("authentik_core.group", "{name: a}", more="id: a"),
        entry("authentik_core.group", "{name: b}", "{parent: !KeyOf a, users: []}"),
    )
    child = blueprints.database.first(Group, name="b")
    assert child is not None
    assert len(child.parents) == 1


def test_devices_and_what_they_need_are_declared() -> None:
    """Second factors of every kind, a prompt and an invitation; applying the file again changes nothing."""
    database = Database(":memory:")
    blueprints = Blueprints(database, STORABLE, POLICY_TYPES)
    text = """
version: 1
metadata: {name: devices}
entries:
  - {model: authentik_core.user, id: u, identifiers: {username: u}}
  - model: authentik_stages_authenticator_email.authenticatoremailstage
    id: mail
    identifiers: {name: mail}
    attrs: {use_global_settings: true}
  - model: authentik_stages_authenticator_duo.authenticatorduostage
    id: duo
    identifiers: {name: duo}
    attrs: {api_hostname: api.duo.test, client_id: x, client_secret: y}
  - model: authentik_stages_authenticator_email.emaildevice
    identifiers: {user: !KeyOf u, name: m}
    attrs: {email: u@example.test, stage: !KeyOf mail}
  - model: authentik_stages_authenticator_sms.smsdevice
    identifiers: {user: !KeyOf u, name: s}
    attrs: {phone_number: "+4930123456"}
  - model: authentik_stages_authenticator_duo.duodevice
    identifiers: {user: !KeyOf u, name: d}
    attrs: {duo_user_id: DU1, stage: !KeyOf duo}
  - model: authentik_stages_prompt.prompt
    id: p
    identifiers: {name: p}
    attrs: {field_key: k, label: K, type: text}
  - model: authentik_stages_invitation.invitation
    identifiers: {name: i}
    attrs: {fixed_data: {a: 1}, single_use: true, expires: "2030-01-31T12:00:00Z", created_by: !KeyOf u}
  - model: authentik_brands.brand
    identifiers: {domain: x.test}
    attrs: {client_certificates: []}
"""
    keys = blueprints.apply(text, "devices.yaml")
    devices = database.devices_of(keys["u"])
    assert [type(device).__name__ for device in devices] == ["EmailDevice", "SMSDevice", "DuoDevice"]
    seen: list[object] = []
    database.on_change(lambda change: seen.append(change.model.__name__))
    assert blueprints.apply(text, "devices.yaml") == keys
    assert seen == []
    with pytest.raises(BlueprintError, match="type: must be one of"):
        blueprints.apply(text.replace("type: text", "type: colour"), "devices.yaml")
