"""Records that belong to one kind of stage: prompts, invitations, consents, links in mails, password history."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core.model_base import Model

PROMPT_TYPES = (
    "text", "text_area", "text_read_only", "text_area_read_only", "username", "email", "password", "number", "checkbox",
    "radio-button-group", "dropdown", "date", "date-time", "file", "separator", "hidden", "static", "ak-locale",
)  # fmt: skip


@dataclass(kw_only=True, eq=False)
class Prompt(Model):
    """One field of a prompt stage (flows.md §5.6)."""

    pk: str = ""
    name: str
    field_key: str
    label: str
    type: str
    required: bool = True
    placeholder: str = ""
    initial_value: str = ""
    sub_text: str = ""
    order: int = 0
    placeholder_expression: bool = False
    initial_value_expression: bool = False


@dataclass(kw_only=True, eq=False)
class Invitation(Model):
    """Who has the primary key may enrol (flows.md §5.9). ``fixed_data`` goes over what the person types."""

    pk: str = ""
    name: str
    expires: float | None = None
    expiring: bool = True
    fixed_data: dict[str, Any] = field(default_factory=dict)
    single_use: bool = False
    flow: str | None = None
    created_by: int | None = None


@dataclass(kw_only=True, eq=False)
class Consent(Model):
    """What a user agreed to for an application: permission ids joined by spaces (flows.md §5.7)."""

    pk: int | None = None
    user: int
    application: str
    permissions: str = ""
    expires: float | None = None
    expiring: bool = True


@dataclass(kw_only=True, eq=False)
class FlowToken(Model):
    """A link back into a flow: ``plan`` is the plan as JSON text (flows.md §3.8)."""

    pk: str = ""
    key: str = field(default="", repr=False)
    user: int | None = None
    flow: str
    plan: str = field(repr=False)
    revoke_on_execution: bool = True
    expires: float | None = None


@dataclass(kw_only=True, eq=False)
class PasswordHistory(Model):
    """A password that a user once had, hashed."""

    pk: int | None = None
    user: int
    password_hash: str = field(repr=False)
    created: float = 0.0
