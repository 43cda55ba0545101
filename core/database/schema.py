"""The SQLite schema as numbered steps, and how each record of :mod:`core.models` maps to a table.

A step is never changed once released: a new one is added at the end. ``PRAGMA user_version`` is not used, so that the
table ``migration`` can also say when each step ran.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from core import models

STEPS: tuple[str, ...] = (
    # 1: everything of the first release
    """
    CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE role (pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, managed TEXT UNIQUE);
    CREATE TABLE permission (
        pk INTEGER PRIMARY KEY, role TEXT NOT NULL REFERENCES role(pk) ON DELETE CASCADE,
        permission TEXT NOT NULL, model TEXT, object_pk TEXT);
    CREATE UNIQUE INDEX permission_once ON permission (role, permission, ifnull(model, ''), ifnull(object_pk, ''));
    CREATE TABLE grp (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, is_superuser INTEGER NOT NULL, attributes TEXT NOT NULL);
    CREATE TABLE group_parent (
        own TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE,
        other TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE, UNIQUE (own, other));
    CREATE INDEX group_parent_other ON group_parent (other);
    CREATE TABLE group_closure (
        grp TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE,
        ancestor TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE, PRIMARY KEY (grp, ancestor)) WITHOUT ROWID;
    CREATE INDEX group_closure_ancestor ON group_closure (ancestor);
    CREATE TABLE group_role (
        own TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE,
        other TEXT NOT NULL REFERENCES role(pk) ON DELETE CASCADE, UNIQUE (own, other));
    CREATE TABLE user (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL UNIQUE, username TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL, email TEXT NOT NULL, password_hash TEXT NOT NULL, is_active INTEGER NOT NULL,
        type TEXT NOT NULL, path TEXT NOT NULL, attributes TEXT NOT NULL, date_joined REAL NOT NULL, last_login REAL,
        last_updated REAL NOT NULL, password_change_date REAL NOT NULL);
    CREATE INDEX user_username_fold ON user (casefold(username));
    CREATE INDEX user_email ON user (email);
    CREATE INDEX user_email_fold ON user (casefold(email));
    CREATE INDEX user_name ON user (name);
    CREATE INDEX user_path ON user (path);
    CREATE INDEX user_last_updated ON user (last_updated);
    CREATE INDEX user_upn ON user (json_extract(attributes, '$."upn"'));
    CREATE INDEX user_upn_fold ON user (casefold(json_extract(attributes, '$."upn"')));
    CREATE TABLE user_group (
        own INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        other TEXT NOT NULL REFERENCES grp(pk) ON DELETE CASCADE, UNIQUE (own, other));
    CREATE INDEX user_group_other ON user_group (other, own);
    CREATE TABLE user_role (
        own INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        other TEXT NOT NULL REFERENCES role(pk) ON DELETE CASCADE, UNIQUE (own, other));
    CREATE TABLE token (
        pk TEXT PRIMARY KEY, identifier TEXT NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE, intent TEXT NOT NULL,
        user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE, description TEXT NOT NULL, expires REAL,
        expiring INTEGER NOT NULL, managed TEXT UNIQUE);
    CREATE INDEX token_user ON token (user, intent);
    CREATE INDEX token_expires ON token (expires) WHERE expiring;
    CREATE TABLE session (
        pk TEXT PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, user INTEGER REFERENCES user(pk) ON DELETE CASCADE,
        data TEXT NOT NULL, created REAL NOT NULL, last_used REAL NOT NULL, expires REAL, last_ip TEXT NOT NULL,
        user_agent TEXT NOT NULL);
    CREATE INDEX session_user ON session (user);
    CREATE INDEX session_expires ON session (expires);
    CREATE TABLE flow (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL, slug TEXT NOT NULL UNIQUE, title TEXT NOT NULL,
        designation TEXT NOT NULL, authentication TEXT NOT NULL, denied_action TEXT NOT NULL,
        policy_engine_mode TEXT NOT NULL, compatibility_mode INTEGER NOT NULL, layout TEXT NOT NULL,
        background TEXT NOT NULL);
    CREATE TABLE stage (pk TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL UNIQUE, options TEXT NOT NULL);
    CREATE TABLE stage_binding (
        pk TEXT PRIMARY KEY, target TEXT NOT NULL REFERENCES flow(pk) ON DELETE CASCADE,
        stage TEXT NOT NULL REFERENCES stage(pk) ON DELETE CASCADE, "order" INTEGER NOT NULL,
        evaluate_on_plan INTEGER NOT NULL, re_evaluate_policies INTEGER NOT NULL, policy_engine_mode TEXT NOT NULL,
        invalid_response_action TEXT NOT NULL, UNIQUE (target, stage, "order"));
    CREATE INDEX stage_binding_stage ON stage_binding (stage);
    CREATE TABLE policy (
        pk TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL UNIQUE, execution_logging INTEGER NOT NULL,
        options TEXT NOT NULL);
    CREATE TABLE policy_binding (
        pk TEXT PRIMARY KEY, target TEXT NOT NULL, policy TEXT REFERENCES policy(pk) ON DELETE CASCADE,
        "group" TEXT REFERENCES grp(pk) ON DELETE CASCADE, user INTEGER REFERENCES user(pk) ON DELETE CASCADE,
        negate INTEGER NOT NULL, enabled INTEGER NOT NULL, "order" INTEGER NOT NULL, timeout INTEGER NOT NULL,
        failure_result INTEGER NOT NULL,
        CHECK ((policy IS NOT NULL) + ("group" IS NOT NULL) + (user IS NOT NULL) = 1));
    CREATE INDEX policy_binding_target ON policy_binding (target, "order");
    CREATE INDEX policy_binding_policy ON policy_binding (policy);
    CREATE INDEX policy_binding_group ON policy_binding ("group");
    CREATE INDEX policy_binding_user ON policy_binding (user);
    CREATE TABLE property_mapping (
        pk TEXT PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL UNIQUE, managed TEXT UNIQUE,
        options TEXT NOT NULL);
    CREATE TABLE provider (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, name TEXT NOT NULL UNIQUE,
        authentication_flow TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        authorization_flow TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        invalidation_flow TEXT REFERENCES flow(pk) ON DELETE SET NULL, options TEXT NOT NULL);
    CREATE TABLE provider_mapping (
        own INTEGER NOT NULL REFERENCES provider(pk) ON DELETE CASCADE,
        other TEXT NOT NULL REFERENCES property_mapping(pk) ON DELETE CASCADE, UNIQUE (own, other));
    CREATE TABLE application (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL, slug TEXT NOT NULL UNIQUE,
        provider INTEGER UNIQUE REFERENCES provider(pk) ON DELETE SET NULL, "group" TEXT NOT NULL,
        policy_engine_mode TEXT NOT NULL, meta_launch_url TEXT NOT NULL, meta_icon TEXT NOT NULL,
        meta_description TEXT NOT NULL, meta_publisher TEXT NOT NULL, open_in_new_tab INTEGER NOT NULL);
    CREATE TABLE application_backchannel (
        own TEXT NOT NULL REFERENCES application(pk) ON DELETE CASCADE,
        other INTEGER NOT NULL UNIQUE REFERENCES provider(pk) ON DELETE CASCADE, UNIQUE (own, other));
    CREATE TABLE outpost (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, type TEXT NOT NULL, config TEXT NOT NULL, managed TEXT UNIQUE);
    CREATE TABLE outpost_provider (
        own TEXT NOT NULL REFERENCES outpost(pk) ON DELETE CASCADE,
        other INTEGER NOT NULL REFERENCES provider(pk) ON DELETE CASCADE, UNIQUE (own, other));
    CREATE INDEX outpost_provider_other ON outpost_provider (other);
    CREATE TABLE key_pair (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, certificate_data TEXT NOT NULL, key_data TEXT NOT NULL,
        managed TEXT UNIQUE);
    CREATE TABLE brand (
        pk TEXT PRIMARY KEY, domain TEXT NOT NULL UNIQUE, "default" INTEGER NOT NULL, branding_title TEXT NOT NULL,
        branding_logo TEXT NOT NULL, branding_favicon TEXT NOT NULL, branding_custom_css TEXT NOT NULL,
        branding_default_flow_background TEXT NOT NULL,
        flow_authentication TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        flow_invalidation TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        flow_recovery TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        flow_unenrollment TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        flow_user_settings TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        flow_device_code TEXT REFERENCES flow(pk) ON DELETE SET NULL,
        default_application TEXT REFERENCES application(pk) ON DELETE SET NULL,
        web_certificate TEXT REFERENCES key_pair(pk) ON DELETE SET NULL, attributes TEXT NOT NULL);
    CREATE TABLE totp_device (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        name TEXT NOT NULL, confirmed INTEGER NOT NULL, key TEXT NOT NULL, step INTEGER NOT NULL, t0 INTEGER NOT NULL,
        digits INTEGER NOT NULL, tolerance INTEGER NOT NULL, drift INTEGER NOT NULL, last_t INTEGER NOT NULL,
        throttling_failure_timestamp REAL, throttling_failure_count INTEGER NOT NULL, created REAL NOT NULL,
        last_used REAL);
    CREATE INDEX totp_device_user ON totp_device (user);
    CREATE TABLE static_device (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        name TEXT NOT NULL, confirmed INTEGER NOT NULL, tokens TEXT NOT NULL, throttling_failure_timestamp REAL,
        throttling_failure_count INTEGER NOT NULL, created REAL NOT NULL, last_used REAL);
    CREATE INDEX static_device_user ON static_device (user);
    CREATE TABLE event (
        pk TEXT PRIMARY KEY, action TEXT NOT NULL, app TEXT NOT NULL, context TEXT NOT NULL, client_ip TEXT,
        user TEXT NOT NULL, brand TEXT NOT NULL, created REAL NOT NULL, expires REAL);
    CREATE INDEX event_created ON event (created);
    CREATE INDEX event_expires ON event (expires);
    CREATE TABLE reputation (
        pk TEXT PRIMARY KEY, identifier TEXT NOT NULL, ip TEXT NOT NULL, score INTEGER NOT NULL, updated REAL NOT NULL,
        expires REAL, UNIQUE (identifier, ip));
    CREATE INDEX reputation_ip ON reputation (ip);
    CREATE INDEX reputation_expires ON reputation (expires);
    CREATE TABLE blueprint (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, path TEXT NOT NULL, digest TEXT NOT NULL, context TEXT NOT NULL,
        last_applied REAL NOT NULL);
    CREATE TABLE blueprint_owned (
        model TEXT NOT NULL, pk TEXT NOT NULL, source TEXT NOT NULL, PRIMARY KEY (model, pk)) WITHOUT ROWID;
    """,
    # 2: devices that get codes or pushes, certificates of clients, and what single stages and policies keep
    """
    ALTER TABLE brand ADD COLUMN client_certificates TEXT NOT NULL DEFAULT '[]';
    CREATE TABLE email_device (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        name TEXT NOT NULL, confirmed INTEGER NOT NULL, throttling_failure_timestamp REAL,
        throttling_failure_count INTEGER NOT NULL, created REAL NOT NULL, last_used REAL,
        stage TEXT REFERENCES stage(pk) ON DELETE CASCADE, token TEXT NOT NULL, valid_until REAL NOT NULL,
        email TEXT NOT NULL);
    CREATE INDEX email_device_user ON email_device (user);
    CREATE TABLE sms_device (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        name TEXT NOT NULL, confirmed INTEGER NOT NULL, throttling_failure_timestamp REAL,
        throttling_failure_count INTEGER NOT NULL, created REAL NOT NULL, last_used REAL,
        stage TEXT REFERENCES stage(pk) ON DELETE CASCADE, token TEXT NOT NULL, valid_until REAL NOT NULL,
        phone_number TEXT NOT NULL, UNIQUE (stage, phone_number));
    CREATE INDEX sms_device_user ON sms_device (user);
    CREATE TABLE duo_device (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        name TEXT NOT NULL, confirmed INTEGER NOT NULL, throttling_failure_timestamp REAL,
        throttling_failure_count INTEGER NOT NULL, created REAL NOT NULL, last_used REAL,
        stage TEXT NOT NULL REFERENCES stage(pk) ON DELETE CASCADE, duo_user_id TEXT NOT NULL);
    CREATE INDEX duo_device_user ON duo_device (user);
    CREATE TABLE prompt (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, field_key TEXT NOT NULL, label TEXT NOT NULL,
        type TEXT NOT NULL, required INTEGER NOT NULL, placeholder TEXT NOT NULL, initial_value TEXT NOT NULL,
        sub_text TEXT NOT NULL, "order" INTEGER NOT NULL, placeholder_expression INTEGER NOT NULL,
        initial_value_expression INTEGER NOT NULL);
    CREATE TABLE invitation (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL, expires REAL, expiring INTEGER NOT NULL, fixed_data TEXT NOT NULL,
        single_use INTEGER NOT NULL, flow TEXT REFERENCES flow(pk) ON DELETE CASCADE,
        created_by INTEGER REFERENCES user(pk) ON DELETE CASCADE);
    CREATE TABLE consent (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        application TEXT NOT NULL REFERENCES application(pk) ON DELETE CASCADE, permissions TEXT NOT NULL,
        expires REAL, expiring INTEGER NOT NULL);
    CREATE INDEX consent_user ON consent (user, application);
    CREATE INDEX consent_expires ON consent (expires) WHERE expiring;
    CREATE TABLE flow_token (
        pk TEXT PRIMARY KEY, key TEXT NOT NULL UNIQUE, user INTEGER REFERENCES user(pk) ON DELETE CASCADE,
        flow TEXT NOT NULL REFERENCES flow(pk) ON DELETE CASCADE, plan TEXT NOT NULL,
        revoke_on_execution INTEGER NOT NULL, expires REAL);
    CREATE INDEX flow_token_expires ON flow_token (expires);
    CREATE TABLE password_history (
        pk INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        password_hash TEXT NOT NULL, created REAL NOT NULL);
    CREATE INDEX password_history_user ON password_history (user, created);
    """,
    # 3: codes and tokens of the OAuth2 provider, entitlements
    """
    CREATE TABLE application_entitlement (
        pk TEXT PRIMARY KEY, name TEXT NOT NULL, app TEXT NOT NULL REFERENCES application(pk) ON DELETE CASCADE,
        attributes TEXT NOT NULL, UNIQUE (app, name));
    CREATE TABLE oauth2_code (
        pk TEXT PRIMARY KEY, provider INTEGER NOT NULL REFERENCES provider(pk) ON DELETE CASCADE,
        user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        session TEXT NOT NULL REFERENCES session(pk) ON DELETE CASCADE, redirect_uri TEXT NOT NULL, scope TEXT NOT NULL,
        nonce TEXT NOT NULL, code_challenge TEXT NOT NULL, code_challenge_method TEXT NOT NULL, auth_time REAL NOT NULL,
        amr TEXT NOT NULL, expires REAL);
    CREATE INDEX oauth2_code_session ON oauth2_code (session);
    CREATE INDEX oauth2_code_expires ON oauth2_code (expires);
    CREATE TABLE oauth2_access_token (
        pk TEXT PRIMARY KEY, provider INTEGER NOT NULL REFERENCES provider(pk) ON DELETE CASCADE,
        user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        session TEXT REFERENCES session(pk) ON DELETE CASCADE, scope TEXT NOT NULL, claims TEXT NOT NULL,
        family TEXT NOT NULL, expires REAL);
    CREATE INDEX oauth2_access_token_session ON oauth2_access_token (session);
    CREATE INDEX oauth2_access_token_user ON oauth2_access_token (user);
    CREATE INDEX oauth2_access_token_family ON oauth2_access_token (family);
    CREATE INDEX oauth2_access_token_expires ON oauth2_access_token (expires);
    CREATE TABLE oauth2_refresh_token (
        pk TEXT PRIMARY KEY, provider INTEGER NOT NULL REFERENCES provider(pk) ON DELETE CASCADE,
        user INTEGER NOT NULL REFERENCES user(pk) ON DELETE CASCADE,
        session TEXT REFERENCES session(pk) ON DELETE SET NULL, scope TEXT NOT NULL, nonce TEXT NOT NULL,
        auth_time REAL NOT NULL, amr TEXT NOT NULL, family TEXT NOT NULL, used INTEGER NOT NULL, expires REAL);
    CREATE INDEX oauth2_refresh_token_session ON oauth2_refresh_token (session);
    CREATE INDEX oauth2_refresh_token_user ON oauth2_refresh_token (user);
    CREATE INDEX oauth2_refresh_token_family ON oauth2_refresh_token (family);
    CREATE INDEX oauth2_refresh_token_expires ON oauth2_refresh_token (expires);
    """,
)


class Many(NamedTuple):
    """A list of primary keys kept in a table ``(own, other)``."""

    table: str
    target: type[models.Model]


class Table(NamedTuple):
    """How one record class is stored."""

    name: str
    key: str  # "uuid", "integer" or "text" (text: the caller gives it)
    columns: tuple[str, ...]
    json: frozenset[str]
    booleans: frozenset[str]
    many: dict[str, Many]
    order: str
    expires: bool
    selected: str  # the columns as a SELECT names them


_NOT_COLUMNS = {"directory", "is_superuser", "uid"}


def _table(
    model: type[Any],
    name: str,
    *,
    order: str,
    key: str = "uuid",
    many: dict[str, Many] | None = None,
    expires: bool = False,
) -> Table:
    many = many or {}
    skipped = set(many) | (_NOT_COLUMNS if model is models.User else set())
    fields = [field for field in dataclasses.fields(model) if field.name not in skipped]
    columns = tuple(field.name for field in fields)
    return Table(
        name=name,
        key=key,
        columns=columns,
        json=frozenset(field.name for field in fields if str(field.type).startswith(("dict", "list"))),
        booleans=frozenset(field.name for field in fields if str(field.type) == "bool"),
        many=many,
        order=order,
        expires=expires,
        selected=", ".join(f'"{column}"' for column in columns),
    )


TABLES: dict[type[models.Model], Table] = {
    models.User: _table(
        models.User,
        "user",
        key="integer",
        order="username",
        many={"group_pks": Many("user_group", models.Group), "role_pks": Many("user_role", models.Role)},
    ),
    models.Group: _table(
        models.Group,
        "grp",
        order="name",
        many={"parents": Many("group_parent", models.Group), "role_pks": Many("group_role", models.Role)},
    ),
    models.Role: _table(models.Role, "role", order="name"),
    models.Permission: _table(models.Permission, "permission", key="integer", order="pk"),
    models.Token: _table(models.Token, "token", order="identifier", expires=True),
    models.Session: _table(models.Session, "session", key="text", order="created", expires=True),
    models.Flow: _table(models.Flow, "flow", order="slug"),
    models.Stage: _table(models.Stage, "stage", order="name"),
    models.StageBinding: _table(models.StageBinding, "stage_binding", order='"order", rowid'),
    models.Policy: _table(models.Policy, "policy", order="name"),
    models.PolicyBinding: _table(models.PolicyBinding, "policy_binding", order='"order", rowid'),
    models.PropertyMapping: _table(models.PropertyMapping, "property_mapping", order="name"),
    models.Provider: _table(
        models.Provider,
        "provider",
        key="integer",
        order="name",
        many={"property_mappings": Many("provider_mapping", models.PropertyMapping)},
    ),
    models.Application: _table(
        models.Application,
        "application",
        order="name",
        many={"backchannel_providers": Many("application_backchannel", models.Provider)},
    ),
    models.ApplicationEntitlement: _table(models.ApplicationEntitlement, "application_entitlement", order="name"),
    models.Outpost: _table(
        models.Outpost, "outpost", order="name", many={"providers": Many("outpost_provider", models.Provider)}
    ),
    models.Brand: _table(models.Brand, "brand", order="domain"),
    models.KeyPair: _table(models.KeyPair, "key_pair", order="name"),
    models.TOTPDevice: _table(models.TOTPDevice, "totp_device", key="integer", order="pk"),
    models.StaticDevice: _table(models.StaticDevice, "static_device", key="integer", order="pk"),
    models.EmailDevice: _table(models.EmailDevice, "email_device", key="integer", order="pk"),
    models.SMSDevice: _table(models.SMSDevice, "sms_device", key="integer", order="pk"),
    models.DuoDevice: _table(models.DuoDevice, "duo_device", key="integer", order="pk"),
    models.Prompt: _table(models.Prompt, "prompt", order='"order", name'),
    models.Invitation: _table(models.Invitation, "invitation", order="name", expires=True),
    models.Consent: _table(models.Consent, "consent", key="integer", order="pk", expires=True),
    models.FlowToken: _table(models.FlowToken, "flow_token", order="pk", expires=True),
    models.PasswordHistory: _table(models.PasswordHistory, "password_history", key="integer", order="created DESC, pk"),
    models.AuthorizationCode: _table(models.AuthorizationCode, "oauth2_code", key="text", order="pk", expires=True),
    models.AccessToken: _table(models.AccessToken, "oauth2_access_token", key="text", order="pk", expires=True),
    models.RefreshToken: _table(models.RefreshToken, "oauth2_refresh_token", key="text", order="pk", expires=True),
    models.Event: _table(models.Event, "event", order="created DESC", expires=True),
    models.Reputation: _table(models.Reputation, "reputation", order="identifier", expires=True),
    models.Blueprint: _table(models.Blueprint, "blueprint", order="name"),
}
