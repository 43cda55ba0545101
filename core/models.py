"""Plain records of everything the embedded core keeps, one class per kind of object, fields named as in the API.

Every class is a keyword-only dataclass with a primary key ``pk``; ``pk is None`` (integers) or ``""`` (UUIDs, text)
means "not stored yet"; :meth:`core.database.Database.save` fills it in. References are primary keys, not objects. What
differs by type (options of stages, policies, providers, mappings) is the mapping ``options``, so that a new type needs
no migration; ``type`` is then the blueprint model name, such as ``authentik_stages_password.passwordstage``.

Devices are in ``devices.py``, what single stages keep in ``stage_models.py``, codes and tokens that clients hold in
``oauth2_models.py``; all are named here too.

Secrets (password hashes, token keys, private keys, one-time codes) are left out of ``repr``.
Times are Unix seconds as ``float``. A flow and a binding use one UUID both as ``pk`` and as policy-target id.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Protocol

from core.devices import DEVICES as DEVICES
from core.devices import Device as Device
from core.devices import DuoDevice as DuoDevice
from core.devices import EmailDevice as EmailDevice
from core.devices import SMSDevice as SMSDevice
from core.devices import StaticDevice as StaticDevice
from core.devices import TOTPDevice as TOTPDevice
from core.lookups import Related as Related  # part of what a record offers
from core.model_base import Model as Model
from core.oauth2_models import AccessToken as AccessToken
from core.oauth2_models import AuthorizationCode as AuthorizationCode
from core.oauth2_models import RefreshToken as RefreshToken
from core.stage_models import Consent as Consent
from core.stage_models import FlowToken as FlowToken
from core.stage_models import Invitation as Invitation
from core.stage_models import PasswordHistory as PasswordHistory
from core.stage_models import Prompt as Prompt

INTERNAL = "internal"
EXTERNAL = "external"
SERVICE_ACCOUNT = "service_account"
INTERNAL_SERVICE_ACCOUNT = "internal_service_account"
USER_TYPES = (INTERNAL, EXTERNAL, SERVICE_ACCOUNT, INTERNAL_SERVICE_ACCOUNT)

INTENT_VERIFICATION = "verification"
INTENT_API = "api"
INTENT_RECOVERY = "recovery"
INTENT_APP_PASSWORD = "app_password"  # noqa: S105 - the name of an intent
TOKEN_INTENTS = (INTENT_VERIFICATION, INTENT_API, INTENT_RECOVERY, INTENT_APP_PASSWORD)

DESIGNATIONS = (
    "authentication", "authorization", "invalidation", "enrollment", "unenrollment", "recovery", "stage_configuration",
)  # fmt: skip
AUTHENTICATION_REQUIREMENTS = (
    "none", "require_authenticated", "require_unauthenticated", "require_superuser", "require_redirect",
    "require_outpost",
)  # fmt: skip
DENIED_ACTIONS = ("message_continue", "message", "continue")
ENGINE_MODES = ("any", "all")
LAYOUTS = (
    "stacked", "content_left", "content_right", "sidebar_left", "sidebar_right", "sidebar_left_frame_background",
    "sidebar_right_frame_background",
)  # fmt: skip
INVALID_RESPONSE_ACTIONS = ("retry", "restart", "restart_with_context")
OUTPOST_TYPES = ("proxy", "ldap", "radius", "rac")


class Directory(Protocol):
    """What a :class:`User` asks of the database that it came from."""

    def direct_groups(self, user: User) -> list[Group]: ...
    def effective_groups(self, user: User) -> list[Group]: ...
    def effective_roles(self, user: User) -> list[Role]: ...
    def merged_attributes(self, user: User, brand_attributes: dict[str, Any] | None = None) -> dict[str, Any]: ...
    def entitlements_of(self, user: User, application: Application) -> list[ApplicationEntitlement]: ...


@dataclass(kw_only=True, eq=False)
class User(Model):
    """A person or service account.

    ``group_pks`` and ``role_pks`` are *direct* memberships. ``is_superuser`` and ``uid`` are computed when the user is
    read and ignored by ``save``. A user without ``pk`` is a "pretend" or half-made one. The attribute ``backend``
    exists only once a password backend accepted the user in the running flow: policies test it with ``hasattr``.
    """

    pk: int | None = None
    uuid: str = ""
    username: str
    name: str = ""
    email: str = ""
    password_hash: str = field(default="", repr=False)
    is_active: bool = True
    type: str = INTERNAL
    path: str = "users"
    attributes: dict[str, Any] = field(default_factory=dict)
    group_pks: list[str] = field(default_factory=list)
    role_pks: list[str] = field(default_factory=list)
    date_joined: float = 0.0
    last_login: float | None = None
    last_updated: float = 0.0
    password_change_date: float = 0.0
    is_superuser: bool = False
    uid: str = ""
    directory: Directory | None = field(default=None, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> User:
        """A copy that shares the database port; plans are copied when the inspector keeps history."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.attributes = copy.deepcopy(self.attributes, memo)
        twin.group_pks = list(self.group_pks)
        twin.role_pks = list(self.role_pks)
        return twin

    @property
    def id(self) -> int | None:
        """The primary key under its other usual name."""
        return self.pk

    @property
    def is_authenticated(self) -> bool:
        """Whether this is a stored user at all (expressions ask it of the request's user)."""
        return self.stored

    @property
    def is_anonymous(self) -> bool:
        """The opposite of :attr:`is_authenticated`."""
        return not self.stored

    @property
    def ak_groups(self) -> Related[Group]:
        """Direct groups under the older name."""
        return self.groups

    @property
    def groups(self) -> Related[Group]:
        """Direct groups, by name."""
        return Related(self.directory.direct_groups(self) if self.directory and self.stored else ())

    def all_groups(self) -> Related[Group]:
        """Direct groups and all their ancestors, by name."""
        return Related(self.directory.effective_groups(self) if self.directory and self.stored else ())

    def all_roles(self) -> Related[Role]:
        """Own roles and those of all effective groups, by name."""
        return Related(self.directory.effective_roles(self) if self.directory and self.stored else ())

    def group_attributes(self, request: object = None) -> dict[str, Any]:
        """Attributes merged from brand, groups and user (flows.md §7). ``request`` may carry ``brand``."""
        if self.directory is None:
            return copy.deepcopy(self.attributes)
        brand = getattr(request, "brand", None)
        return self.directory.merged_attributes(self, getattr(brand, "attributes", None))

    def app_entitlements(self, application: Application | None) -> Related[ApplicationEntitlement]:
        """What the user is entitled to in an application, by name."""
        if self.directory is None or not self.stored or application is None:
            return Related(())
        return Related(self.directory.entitlements_of(self, application))

    def has_usable_password(self) -> bool:
        """Whether the user has a password hash at all."""
        return bool(self.password_hash)


def anonymous_user() -> User:
    """The user of a request without login: no ``pk``, never member of anything."""
    return User(username="AnonymousUser", is_active=False)


@dataclass(kw_only=True, eq=False)
class Group(Model):
    """A group. Members of a child count as members of all ancestors; ``is_superuser`` is inherited the same way."""

    pk: str = ""
    name: str
    is_superuser: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    parents: list[str] = field(default_factory=list)
    role_pks: list[str] = field(default_factory=list)

    @property
    def num_pk(self) -> int:
        """First five digits of the UUID's integer form, as outposts use it for the gidNumber."""
        return int(str(int(self.pk.replace("-", ""), 16))[:5])


@dataclass(kw_only=True, eq=False)
class Role(Model):
    """A named set of permissions."""

    pk: str = ""
    name: str
    managed: str | None = None


@dataclass(kw_only=True, eq=False)
class Permission(Model):
    """One permission of one role: ``app.codename``, global (``object_pk`` is ``None``) or on one object.

    ``model`` is the blueprint model name of the object, e.g. ``authentik_providers_ldap.ldapprovider``.
    """

    pk: int | None = None
    role: str
    permission: str
    model: str | None = None
    object_pk: str | None = None


@dataclass(kw_only=True, eq=False)
class Token(Model):
    """A secret that stands for a user. ``expires`` counts only while ``expiring``."""

    pk: str = ""
    identifier: str
    key: str = field(default="", repr=False)
    intent: str = INTENT_VERIFICATION
    user: int
    description: str = ""
    expires: float | None = None
    expiring: bool = True
    managed: str | None = None


@dataclass(kw_only=True, eq=False)
class Flow(Model):
    """A flow (flows.md §1.1). Its ``pk`` is also the target of its policy bindings."""

    pk: str = ""
    name: str
    slug: str
    title: str
    designation: str
    authentication: str = "none"
    denied_action: str = "message_continue"
    policy_engine_mode: str = "any"
    compatibility_mode: bool = False
    layout: str = "stacked"
    background: str = ""


@dataclass(kw_only=True, eq=False)
class Stage(Model):
    """A stage: ``type`` selects the behaviour, ``options`` are that type's fields (references are primary keys)."""

    pk: str = ""
    type: str
    name: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(kw_only=True, eq=False)
class StageBinding(Model):
    """A stage's place in a flow (flows.md §1.3). Its ``pk`` is also the target of its policy bindings."""

    pk: str = ""
    target: str
    stage: str
    order: int
    evaluate_on_plan: bool = False
    re_evaluate_policies: bool = True
    policy_engine_mode: str = "any"
    invalid_response_action: str = "retry"


@dataclass(kw_only=True, eq=False)
class Policy(Model):
    """A policy: ``type`` selects the behaviour, ``options`` are that type's fields."""

    pk: str = ""
    type: str
    name: str
    execution_logging: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class PolicyBinding(Model):
    """A policy, group or user bound to a target (flows.md §1.4). ``timeout`` in seconds."""

    pk: str = ""
    target: str
    policy: str | None = None
    group: str | None = None
    user: int | None = None
    negate: bool = False
    enabled: bool = True
    order: int = 0
    timeout: int = 30
    failure_result: bool = False


@dataclass(kw_only=True, eq=False)
class Application(Model):
    """What a user opens. Its ``pk`` is also the target of its policy bindings."""

    pk: str = ""
    name: str
    slug: str
    provider: int | None = None
    backchannel_providers: list[int] = field(default_factory=list)
    group: str = ""
    policy_engine_mode: str = "any"
    meta_launch_url: str = ""
    meta_icon: str = ""
    meta_description: str = ""
    meta_publisher: str = ""
    open_in_new_tab: bool = False


@dataclass(kw_only=True, eq=False)
class ApplicationEntitlement(Model):
    """A right inside an application. Who has it is said by bindings of groups and users to its ``pk``."""

    pk: str = ""
    name: str
    app: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class Provider(Model):
    """How an application is reached. Flows are primary keys; what only one type has (base DN, …) is in ``options``."""

    pk: int | None = None
    type: str
    name: str
    authentication_flow: str | None = None
    authorization_flow: str | None = None
    invalidation_flow: str | None = None
    property_mappings: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(kw_only=True, eq=False)
class PropertyMapping(Model):
    """An expression that makes claims or reply attributes."""

    pk: str = ""
    type: str
    name: str
    managed: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class Outpost(Model):
    """An outpost and the providers it serves. Saving one makes its service account, token and permissions."""

    pk: str = ""
    name: str
    type: str
    providers: list[int] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    managed: str | None = None

    @property
    def service_account(self) -> str:
        """User name of the account behind the outpost's token."""
        return f"ak-outpost-{self.pk.replace('-', '')}"

    @property
    def token_identifier(self) -> str:
        """Identifier of the outpost's API token."""
        return f"ak-outpost-{self.pk}-api"


@dataclass(kw_only=True, eq=False)
class Brand(Model):
    """Look and default flows of a host name. ``flow_*`` are flow primary keys."""

    pk: str = ""
    domain: str
    default: bool = False
    branding_title: str = "authentik"
    branding_logo: str = "/static/dist/assets/icons/icon_left_brand.svg"
    branding_favicon: str = "/static/dist/assets/icons/icon.png"
    branding_custom_css: str = ""
    branding_default_flow_background: str = "/static/dist/assets/images/flow_background.jpg"
    flow_authentication: str | None = None
    flow_invalidation: str | None = None
    flow_recovery: str | None = None
    flow_unenrollment: str | None = None
    flow_user_settings: str | None = None
    flow_device_code: str | None = None
    default_application: str | None = None
    web_certificate: str | None = None
    client_certificates: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class KeyPair(Model):
    """A certificate and maybe its private key, both PEM."""

    pk: str = ""
    name: str
    certificate_data: str
    key_data: str = field(default="", repr=False)
    managed: str | None = None


@dataclass(kw_only=True, eq=False)
class Session(Model):
    """A browser's or outpost's session. ``pk`` is the sha256 hex of the session key: the id that outposts are told,
    while the key itself is only in the cookie. ``data`` is JSON text; ``user`` is ``None`` until login.

    ``uuid`` is the public primary key of the API's authenticated session.
    """

    pk: str
    uuid: str = ""
    user: int | None = None
    data: str = field(default="{}", repr=False)
    created: float = 0.0
    last_used: float = 0.0
    expires: float | None = None
    last_ip: str = ""
    user_agent: str = ""


@dataclass(kw_only=True, eq=False)
class Event(Model):
    """Something that happened. ``user`` and ``brand`` are descriptions (pk, username, …), not references."""

    pk: str = ""
    action: str
    app: str
    context: dict[str, Any] = field(default_factory=dict)
    client_ip: str | None = None
    user: dict[str, Any] = field(default_factory=dict)
    brand: dict[str, Any] = field(default_factory=dict)
    created: float = 0.0
    expires: float | None = None


@dataclass(kw_only=True, eq=False)
class Reputation(Model):
    """Score of a name as seen from an address, between -5 and 5."""

    pk: str = ""
    identifier: str
    ip: str
    score: int = 0
    updated: float = 0.0
    expires: float | None = None


@dataclass(kw_only=True, eq=False)
class Blueprint(Model):
    """A blueprint that was applied: ``name`` is unique, ``digest`` the sha256 hex of its text."""

    pk: str = ""
    name: str
    path: str = ""
    digest: str = ""
    context: dict[str, Any] = field(default_factory=dict)
    last_applied: float = 0.0
