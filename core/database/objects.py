"""Flows, bindings, applications, outposts with their accounts, brands, reputation, events, and blueprint ownership."""

from __future__ import annotations

import uuid
from typing import Any

from core.database.directory import DirectoryStore
from core.database.store import Change
from core.errors import ValidationFailed
from core.models import (
    AUTHENTICATION_REQUIREMENTS,
    DENIED_ACTIONS,
    DESIGNATIONS,
    DEVICES,
    ENGINE_MODES,
    INTENT_API,
    INTERNAL_SERVICE_ACCOUNT,
    INVALID_RESPONSE_ACTIONS,
    LAYOUTS,
    OUTPOST_TYPES,
    AccessToken,
    Application,
    ApplicationEntitlement,
    AuthorizationCode,
    Blueprint,
    Brand,
    Consent,
    Device,
    DuoDevice,
    EmailDevice,
    Event,
    Flow,
    FlowToken,
    Group,
    Invitation,
    KeyPair,
    Model,
    Outpost,
    PasswordHistory,
    Permission,
    Policy,
    PolicyBinding,
    Prompt,
    PropertyMapping,
    Provider,
    RefreshToken,
    Reputation,
    Role,
    Session,
    SMSDevice,
    Stage,
    StageBinding,
    StaticDevice,
    Token,
    TOTPDevice,
    User,
)
from core.stage_models import PROMPT_TYPES

EVENT_LIFE_S = 365 * 24 * 3600.0  # a year, as the reference keeps events
REPUTATION_LIFE_S = 24 * 3600.0  # flows.md §6.2
REPUTATION_LIMIT = 5  # scores stay between -5 and 5

# What stands in the place of an application's slug in the OAuth2 provider's addresses.
RESERVED_SLUGS = frozenset({"authorize", "token", "device", "userinfo", "introspect", "revoke"})

# What every outpost's config has at least; an outpost refuses a config without its host name (flows.md §8.1).
OUTPOST_CONFIG: dict[str, Any] = {
    "authentik_host": "",
    "authentik_host_insecure": False,
    "authentik_host_browser": "",
    "log_level": "info",
    "object_naming_template": "ak-outpost-%(name)s",
    "refresh_interval": "minutes=5",
}

# Blueprint model name of every class whose records are all of one model; Stage, Policy, Provider and PropertyMapping
# carry theirs in ``type``.
MODEL_NAMES: dict[type[Model], str] = {
    User: "authentik_core.user",
    Group: "authentik_core.group",
    Token: "authentik_core.token",
    Application: "authentik_core.application",
    ApplicationEntitlement: "authentik_core.applicationentitlement",
    Session: "authentik_core.authenticatedsession",
    Role: "authentik_rbac.role",
    Flow: "authentik_flows.flow",
    StageBinding: "authentik_flows.flowstagebinding",
    PolicyBinding: "authentik_policies.policybinding",
    Outpost: "authentik_outposts.outpost",
    Brand: "authentik_brands.brand",
    KeyPair: "authentik_crypto.certificatekeypair",
    TOTPDevice: "authentik_stages_authenticator_totp.totpdevice",
    StaticDevice: "authentik_stages_authenticator_static.staticdevice",
    EmailDevice: "authentik_stages_authenticator_email.emaildevice",
    SMSDevice: "authentik_stages_authenticator_sms.smsdevice",
    DuoDevice: "authentik_stages_authenticator_duo.duodevice",
    Prompt: "authentik_stages_prompt.prompt",
    Invitation: "authentik_stages_invitation.invitation",
    Consent: "authentik_stages_consent.userconsent",
    FlowToken: "authentik_flows.flowtoken",
    PasswordHistory: "authentik_policies_unique_password.userpasswordhistory",
    AuthorizationCode: "authentik_providers_oauth2.authorizationcode",
    AccessToken: "authentik_providers_oauth2.accesstoken",
    RefreshToken: "authentik_providers_oauth2.refreshtoken",
    Event: "authentik_events.event",
    Reputation: "authentik_policies_reputation.reputation",
    Blueprint: "authentik_blueprints.blueprintinstance",
    Permission: "authentik_rbac.permission",
}
TYPED = (Stage, Policy, Provider, PropertyMapping)

_CHOICES: dict[type[Model], dict[str, tuple[str, ...]]] = {
    Flow: {
        "designation": DESIGNATIONS,
        "authentication": AUTHENTICATION_REQUIREMENTS,
        "denied_action": DENIED_ACTIONS,
        "policy_engine_mode": ENGINE_MODES,
        "layout": LAYOUTS,
    },
    StageBinding: {"policy_engine_mode": ENGINE_MODES, "invalid_response_action": INVALID_RESPONSE_ACTIONS},
    Application: {"policy_engine_mode": ENGINE_MODES},
    Outpost: {"type": OUTPOST_TYPES},
    Prompt: {"type": PROMPT_TYPES},
}
_SLUG_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def model_name(record: Model) -> str:
    """Blueprint model name of a record, e.g. ``authentik_core.user``."""
    if isinstance(record, TYPED):
        return record.type
    return MODEL_NAMES[type(record)]


def record_key(record: Model) -> tuple[str, str]:
    """(model name, primary key as text): how permissions and ownership name a record."""
    return model_name(record), str(record.pk)


class Database(DirectoryStore):
    """All storage of the embedded core. See :class:`core.database.store.Store` for the generic verbs."""

    # --- flows and policies -----------------------------------------------------------------------------------------

    def flow_by_slug(self, slug: str) -> Flow | None:
        """The flow with this slug or ``None``."""
        return self.first(Flow, slug=slug)

    def stages_of(self, flow_pk: str) -> list[tuple[StageBinding, Stage]]:
        """The bindings of a flow with their stages, in plan order."""
        bindings = self.find(StageBinding, target=flow_pk)
        stages = self.get_many(Stage, {binding.stage for binding in bindings})
        return [(binding, stages[binding.stage]) for binding in bindings]

    def bindings_of(self, target_pk: str) -> list[PolicyBinding]:
        """The *enabled* policy bindings of a target, by order."""
        return self.find(PolicyBinding, target=target_pk, enabled=True)

    # --- applications and outposts ----------------------------------------------------------------------------------

    def application_of(self, provider_pk: int) -> Application | None:
        """The application of a provider; one that names it as back channel wins (flows.md §8.1)."""
        back = self.first(Application, backchannel_providers=provider_pk)
        return back if back is not None else self.first(Application, provider=provider_pk)

    def applications_of(self, provider_pks: list[int]) -> dict[int, Application]:
        """:meth:`application_of` for many providers in two queries; providers without one are missing."""
        wanted = set(provider_pks)
        found = {app.provider: app for app in self.find(Application, provider__in=provider_pks) if app.provider}
        for app in self.find(Application, backchannel_providers__in=provider_pks):
            found.update({pk: app for pk in app.backchannel_providers if pk in wanted})
        return found

    def entitlements_of(self, user: User, application: Application) -> list[ApplicationEntitlement]:
        """The entitlements of an application that a user or one of the user's groups, inherited ones too, has."""
        return [
            entitlement
            for entitlement in self.find(ApplicationEntitlement, app=application.pk)
            if any(self._entitled(user, binding) for binding in self.bindings_of(entitlement.pk))
        ]

    def _entitled(self, user: User, binding: PolicyBinding) -> bool:
        """Whether a binding names the user. A negated one names everybody else and gives nothing to anybody."""
        if binding.negate:
            return False
        if binding.group is not None:
            return self.is_member(user.pk, binding.group)
        return binding.user is not None and binding.user == user.pk

    def outposts_with_provider(self, provider_pk: int) -> list[Outpost]:
        """The outposts that serve a provider."""
        return self.find(Outpost, providers=provider_pk)

    def outposts_with_certificate(self, key_pair_pk: str) -> list[Outpost]:
        """The outposts that serve a provider with this certificate."""
        providers = self.find(Provider, options__certificate=key_pair_pk)
        return self.find(Outpost, providers__in=[provider.pk for provider in providers])

    def outpost_of(self, user: User) -> Outpost | None:
        """The outpost whose service account the user is, or ``None``."""
        name = user.username.removeprefix("ak-outpost-")
        if user.type != INTERNAL_SERVICE_ACCOUNT or name == user.username:
            return None
        try:
            return self.first(Outpost, pk=str(uuid.UUID(name)))
        except ValueError:
            return None

    def outpost_token(self, name: str) -> str:
        """The API token key of the outpost with this name, for the command line.

        :raises ValidationFailed: there is no such outpost.
        """
        outpost = self.first(Outpost, name=name)
        token = self.first(Token, identifier=outpost.token_identifier) if outpost else None
        if token is None:
            names = ", ".join(item.name for item in self.find(Outpost)) or "none"
            raise ValidationFailed(f"no outpost is called {name!r}; there are: {names}")
        return token.key

    def renew_outposts(self) -> None:
        """Give the accounts of all outposts the rights that this version of the program wants them to have."""
        with self.transaction():
            for outpost in self.find(Outpost):
                self._outpost_account(outpost)

    def _outpost_account(self, outpost: Outpost) -> None:
        """Make an outpost's account and token, and give the account exactly the rights of flows.md §7."""
        user = self.first(User, username=outpost.service_account)
        if user is None:
            user = self.save(
                User(
                    username=outpost.service_account,
                    name=f"Outpost {outpost.name} Service-Account",
                    type=INTERNAL_SERVICE_ACCOUNT,
                    path="goauthentik.io/outposts",
                )
            )
        if not self.exists(Token, identifier=outpost.token_identifier):
            self.save(
                Token(
                    identifier=outpost.token_identifier,
                    intent=INTENT_API,
                    user=int(user.pk or 0),
                    description=f"Made for outpost {outpost.name}",
                    expiring=False,
                    managed=f"goauthentik.io/outpost/{outpost.token_identifier}",
                )
            )
        self._outpost_rights(outpost, self.managed_role(user))

    def _outpost_rights(self, outpost: Outpost, role: Role) -> None:
        wanted: set[tuple[str, str | None, str | None]] = {
            ("authentik_outposts.view_outpost", *record_key(outpost)),
            ("authentik_events.add_event", None, None),
        }
        for provider in self.find(Provider, pk__in=outpost.providers):
            app_label, _, name = provider.type.partition(".")
            wanted.add((f"{app_label}.view_{name}", *record_key(provider)))
            certificate = provider.options.get("certificate")
            if certificate:
                for verb in ("view_certificatekeypair", "view_certificatekeypair_certificate",
                             "view_certificatekeypair_key"):  # fmt: skip
                    wanted.add((f"authentik_crypto.{verb}", MODEL_NAMES[KeyPair], str(certificate)))
        if outpost.type == "ldap":
            wanted |= {("authentik_core.view_user", None, None), ("authentik_core.view_group", None, None)}
        if outpost.type in ("ldap", "radius"):
            # LDAP too, unlike the reference: it has SASL EXTERNAL
            wanted.add(("authentik_stages_mtls.pass_outpost_certificate", None, None))
        for held in self.find(Permission, role=role.pk):
            key = (held.permission, held.model, held.object_pk)
            if key in wanted:
                wanted.remove(key)
            else:
                self.delete(held)
        for permission, model, object_pk in sorted(wanted, key=str):
            self.save(Permission(role=role.pk, permission=permission, model=model, object_pk=object_pk))

    # --- brands -----------------------------------------------------------------------------------------------------

    def _brands(self) -> list[Brand]:
        """All brands; every request asks, so they are kept until one changes. Read, never changed, by who gets one."""
        with self._lock:
            if self._depth:
                return self.find(Brand)
            kept: list[Brand] | None = self.__dict__.get("_brands_kept")
            if kept is None:
                if "_brands_watched" not in self.__dict__:
                    self.__dict__["_brands_watched"] = True
                    self.on_change(self._forget_brands)
                kept = self.__dict__["_brands_kept"] = self.find(Brand)
            return kept

    def _forget_brands(self, change: Change) -> None:
        # flows, applications and certificates that a brand names may go with a deletion that names no brand
        if change.model in (Brand, Flow, Application, KeyPair):
            self.__dict__.pop("_brands_kept", None)

    def brand_for(self, host: str) -> Brand:
        """The brand of a host name (a port is ignored): longest matching domain, else default, else an empty one."""
        name = host.casefold()
        name = name.rsplit("]", 1)[0].lstrip("[") if name.startswith("[") else name.split(":", 1)[0]
        default: Brand | None = None
        best: Brand | None = None
        for brand in self._brands():
            domain = brand.domain.casefold()
            if name == domain or name.endswith("." + domain):
                if best is None or len(domain) > len(best.domain):
                    best = brand
            if brand.default:
                default = brand
        return best or default or Brand(domain="fallback")

    # --- devices, reputation, events --------------------------------------------------------------------------------

    def devices_of(self, user_pk: int) -> list[Device]:
        """The confirmed devices of a user: static ones, TOTP, e-mail, SMS, Duo, each by primary key."""
        found: list[Device] = []
        for kind in DEVICES:
            found += self.find(kind, user=user_pk, confirmed=True)
        return found

    def change_reputation(self, identifier: str, ip: str, by: int) -> int:
        """Add ``by`` to the score of a name at an address, kept within ±5; returns the new score."""
        now = self.clock()
        with self.transaction():
            self.sql("DELETE FROM reputation WHERE identifier = ? AND ip = ? AND expires <= ?", (identifier, ip, now))
            rows = self.sql(
                "INSERT INTO reputation (pk, identifier, ip, score, updated, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
                " ON CONFLICT (identifier, ip) DO UPDATE"
                " SET score = max(-?7, min(?7, score + ?4)), updated = ?5, expires = ?6 RETURNING score",
                (
                    *(str(uuid.uuid4()), identifier, ip),
                    *(max(-REPUTATION_LIMIT, min(REPUTATION_LIMIT, by)), now, now + REPUTATION_LIFE_S),
                    REPUTATION_LIMIT,
                ),
            )
        return int(rows[0][0])

    def reputation(self, *, identifier: str | None, ip: str | None) -> int:
        """Sum of the scores of all rows that match the name or the address; ``None`` is not compared. None given: 0."""
        rows = self.sql(
            "SELECT ifnull(sum(score), 0) FROM reputation WHERE (identifier = ? OR ip = ?) AND expires > ?",
            (identifier, ip, self.clock()),
        )
        return int(rows[0][0])

    def log_event(
        self,
        action: str,
        app: str,
        *,
        context: dict[str, Any] | None = None,
        user: User | None = None,
        client_ip: str | None = None,
        brand: Brand | None = None,
    ) -> Event:
        """Store an event. ``context`` must not hold a secret."""
        described = {"pk": user.pk, "username": user.username, "email": user.email} if user and user.stored else {}
        return self.save(
            Event(
                action=action,
                app=app,
                context=context or {},
                client_ip=client_ip,
                user=described,
                brand={"pk": brand.pk, "app": "authentik_brands", "name": brand.domain, "model_name": "brand"}
                if brand and brand.stored
                else {},
            )
        )

    # --- what blueprints own ----------------------------------------------------------------------------------------

    def mark_owned(self, record: Model, source: str) -> None:
        """Note that ``record`` is kept by the blueprint ``source``: read-only over API and pages."""
        with self.transaction():
            self.sql(
                "INSERT INTO blueprint_owned VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET source = excluded.source",
                (*record_key(record), source),
            )

    def owner_of(self, record: Model) -> str | None:
        """Name of the blueprint that owns the record, or ``None``."""
        rows = self.sql("SELECT source FROM blueprint_owned WHERE model = ? AND pk = ?", record_key(record))
        return rows[0][0] if rows else None

    def forget_owned(self, source: str) -> None:
        """Release everything that the blueprint ``source`` owns; done before it is applied anew."""
        with self.transaction():
            self.sql("DELETE FROM blueprint_owned WHERE source = ?", (source,))

    # --- rules on save and delete -----------------------------------------------------------------------------------

    def before_save(self, record: Model) -> None:
        super().before_save(record)
        for name, choices in _CHOICES.get(type(record), {}).items():
            if getattr(record, name) not in choices:
                raise ValidationFailed({name: [f"must be one of {', '.join(choices)}"]})
        match record:
            case Flow() | Application():
                if not record.slug or not _SLUG_LETTERS.issuperset(record.slug):
                    raise ValidationFailed({"slug": ["must be letters, digits, - and _"]})
                if isinstance(record, Application) and record.slug in RESERVED_SLUGS:
                    raise ValidationFailed({"slug": ["The slug is reserved and cannot be used."]})
            case StageBinding():
                if not record.evaluate_on_plan and not record.re_evaluate_policies:
                    raise ValidationFailed("One of evaluate_on_plan and re_evaluate_policies must be set.")
            case PolicyBinding():
                given = [item for item in (record.policy, record.group, record.user) if item is not None]
                if len(given) != 1:
                    raise ValidationFailed("Exactly one of policy, group and user must be set.")
            case Outpost():
                record.config = OUTPOST_CONFIG | record.config
            case TOTPDevice():
                _check_hex(record.key)
                record.created = record.created or self.clock()
            case StaticDevice() | EmailDevice() | SMSDevice() | DuoDevice() | PasswordHistory():
                record.created = record.created or self.clock()
            case Event():
                record.created = record.created or self.clock()
                record.expires = record.expires or record.created + EVENT_LIFE_S

    def after_save(self, record: Model, kind: str) -> None:
        super().after_save(record, kind)
        match record:
            case Outpost():
                self._outpost_account(record)
            case Provider():
                for outpost in self.outposts_with_provider(int(record.pk or 0)):
                    self._outpost_account(outpost)
            case Brand() if record.default:
                self.sql('UPDATE brand SET "default" = 0 WHERE pk <> ?', (record.pk,))

    def before_delete(self, record: Model) -> None:
        super().before_delete(record)
        match record:
            case Application():
                for entitlement in self.find(ApplicationEntitlement, app=record.pk):
                    self.delete(entitlement)
            case Provider():
                for outpost in self.outposts_with_provider(int(record.pk or 0)):
                    outpost.providers.remove(int(record.pk or 0))
                    self.save(outpost)  # so that the outpost is told, which the cascade would not do
            case Flow() | Stage():
                column: dict[str, Any] = {"target" if isinstance(record, Flow) else "stage": record.pk}
                for binding in self.find(StageBinding, **column):
                    self.delete(binding)
            case Outpost():
                user = self.first(User, username=record.service_account)
                if user is not None:
                    self.delete(user)

    def after_delete(self, record: Model) -> None:
        super().after_delete(record)
        if isinstance(record, Flow | StageBinding | Application | ApplicationEntitlement):
            self.sql("DELETE FROM policy_binding WHERE target = ?", (record.pk,))
        self.sql("DELETE FROM permission WHERE model = ? AND object_pk = ?", record_key(record))
        self.sql("DELETE FROM blueprint_owned WHERE model = ? AND pk = ?", record_key(record))


def _check_hex(key: str) -> None:
    try:
        valid = len(bytes.fromhex(key)) > 0
    except ValueError:
        valid = False
    if not valid:
        raise ValidationFailed({"key": ["must be the secret in hex"]})
