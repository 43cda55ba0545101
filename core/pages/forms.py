"""A flow's challenge as a form, and the form's content as the answer that the flow expects.

Every challenge becomes one :class:`View`, which one template shows. Input fields have the names of the answer's fields.
A name that starts with ``json:`` stands for a field whose value is JSON (a choice, a yes or no), so that reading a form
needs no knowledge of what was asked. What a page without JavaScript cannot do is said in words.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

CSRF_FIELD = "ak-csrf"
JSON = "json:"
MAX_FIELDS = 200  # of one form; a prompt has a few dozen
MAX_NESTING = 8  # of a JSON value in a form; ours have one level

FLOW_TITLE = "Log in"
NOT_WITHOUT_SCRIPT = "This step needs JavaScript, which these pages do not use. Please choose another way or cancel."


class BadForm(Exception):
    """A form was sent that this page never made."""


@dataclass
class Field:
    """One input. ``kind`` is an HTML input type, or ``textarea``, ``select``, ``radio``, ``text`` shown as text."""

    name: str
    label: str
    kind: str = "text"
    value: str = ""
    autocomplete: str = "off"
    required: bool = False
    autofocus: bool = False
    placeholder: str = ""
    help: str = ""
    inputmode: str = ""
    choices: list[tuple[str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass
class Button:
    """A button that sends the form, with a value of its own if it has a name."""

    label: str
    name: str = ""
    value: str = ""
    secondary: bool = False


@dataclass
class Link:
    """A way that leads elsewhere."""

    label: str
    url: str


@dataclass
class View:
    """A page of a flow. ``action`` is where the form goes; ``""`` is this page itself, with the page's own token."""

    title: str
    texts: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    user: str = ""
    avatar: str = ""
    items: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    hidden: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[Button] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    action: str = ""
    upload: bool = False
    background: str = ""

    @property
    def has_form(self) -> bool:
        """Whether there is anything to send."""
        return bool(self.buttons)


def view_of(challenge: Mapping[str, Any]) -> View:
    """The page for a challenge."""
    info = challenge.get("flow_info") or {}
    view = View(title=str(info.get("title") or FLOW_TITLE))
    component = str(challenge.get("component", ""))
    avatar = str(challenge.get("pending_user_avatar") or "")
    view.user = str(challenge.get("pending_user") or "")
    view.avatar = avatar if view.user and avatar.startswith("data:image/") else ""
    _COMPONENTS.get(component, _unknown)(view, challenge)
    _place_errors(view, challenge.get("response_errors") or {})
    cancel = info.get("cancel_url")
    if cancel and component not in ("ak-stage-session-end", "ak-stage-access-denied"):
        view.links.append(Link("Cancel", str(cancel)))
    first = next((item for item in view.fields if item.errors), None) or next(
        (item for item in view.fields if item.kind not in ("hidden", "static", "checkbox") and not item.value),
        next((item for item in view.fields if item.kind not in ("hidden", "static")), None),
    )
    if first is not None:
        first.autofocus = True
    return view


def answer_of(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The answer in a form that was sent. Of a name that is there twice the last value counts (checkboxes).

    :raises BadForm: too many fields, or a JSON field that is none.
    """
    found: dict[str, Any] = {}
    for number, (name, value) in enumerate(pairs):
        if number >= MAX_FIELDS:
            raise BadForm("too many fields")
        if name == CSRF_FIELD:
            continue
        if not name.startswith(JSON):
            found[name] = value
            continue
        if value.count("[") + value.count("{") > MAX_NESTING:
            raise BadForm("nested too deeply")
        try:
            found[name.removeprefix(JSON)] = msgspec.json.decode(value.encode())
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise BadForm("a field is not JSON") from None
    return found


def data_address(content_type: str, content: bytes) -> str:
    """An uploaded file as the ``data:`` address that prompt fields hold."""
    kind = content_type.partition(";")[0].strip() or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _place_errors(view: View, errors: Mapping[str, Any]) -> None:
    """Errors beside their fields; those of no visible field above the form."""
    by_name = {item.name: item for item in view.fields}
    for name, found in errors.items():
        texts = [str(item.get("string", "")) for item in found if isinstance(item, Mapping)]
        if name in by_name:
            by_name[name].errors += texts
        else:
            view.errors += texts


# --- one function for each component ---------------------------------------------------------------------------------


def _identification(view: View, data: Mapping[str, Any]) -> None:
    kinds = {"username": "Username", "email": "Email", "upn": "UPN"}
    names = [kinds.get(str(name), str(name)) for name in data.get("user_fields") or ()]
    application = data.get("application_pre")
    if application:
        view.texts.append(f"Log in to continue to {application}.")
    if names:
        label = " or ".join(names)
        email_only = data.get("user_fields") == ["email"]
        view.fields.append(
            Field(
                "uid_field",
                label,
                "email" if email_only else "text",
                value=str(data.get("pending_user_identifier") or ""),
                autocomplete="username",
                required=True,
            )
        )
        if data.get("password_fields"):
            view.fields.append(_password_field())
        view.buttons.append(Button(str(data.get("primary_action") or "Log in")))
    if data.get("captcha_stage"):
        view.errors.append(NOT_WITHOUT_SCRIPT)
    for source in data.get("sources") or ():
        challenge = source.get("challenge") or {}
        if challenge.get("component") == "xak-flow-redirect":
            view.links.append(Link(f"Continue with {source.get('name', '')}", str(challenge.get("to", ""))))
    ways = {"passwordless_url": "Use a security key", "recovery_url": "Forgot username or password?",
            "enroll_url": "Need an account? Sign up."}  # fmt: skip
    view.links += [Link(text, str(data[name])) for name, text in ways.items() if data.get(name)]


def _password_field() -> Field:
    return Field("password", "Password", "password", autocomplete="current-password", required=True)


def _password(view: View, data: Mapping[str, Any]) -> None:
    # password managers want to see for whom the password is
    view.fields += [Field("username", "Username", "hidden", view.user, autocomplete="username"), _password_field()]
    view.buttons.append(Button("Continue"))
    if data.get("recovery_url"):
        view.links.append(Link("Forgot password?", str(data["recovery_url"])))


_DEVICES = {
    "totp": "Enter the code of your authenticator app.",
    "static": "Or enter one of your recovery codes.",
    "email": "A code can be sent to you by email.",
    "sms": "A code can be sent to your phone.",
}
_SENDING = {"email": "Send a code by email", "sms": "Send a code by SMS"}


def _validate(view: View, data: Mapping[str, Any]) -> None:
    devices = list(data.get("device_challenges") or ())
    classes = [str(device.get("device_class")) for device in devices]
    view.texts += [text for name, text in _DEVICES.items() if name in classes]
    if set(classes) & set(_DEVICES):
        view.fields.append(_code_field())
        view.buttons.append(Button("Continue"))
    for device in devices:
        kind, uid = str(device.get("device_class")), str(device.get("device_uid"))
        if kind in _SENDING:
            chosen = {"device_class": kind, "device_uid": uid}
            view.buttons.append(
                Button(_SENDING[kind], JSON + "selected_challenge", msgspec.json.encode(chosen).decode(), True)
            )
        if kind == "duo":
            view.buttons.append(Button("Send a push to your phone", "duo", uid, bool(view.buttons)))
    for stage in data.get("configuration_stages") or ():
        label = str(stage.get("verbose_name") or stage.get("name") or "")
        view.buttons.append(Button(f"Set up: {label}", "selected_stage", str(stage.get("pk")), bool(view.buttons)))
    if not view.buttons:
        view.texts.append(NOT_WITHOUT_SCRIPT)
    elif "webauthn" in classes:
        view.texts.append("Security keys need JavaScript, which these pages do not use.")


def _code_field(label: str = "Code") -> Field:
    # no input mode: recovery codes have letters
    return Field("code", label, autocomplete="one-time-code")


def _consent(view: View, data: Mapping[str, Any]) -> None:
    if data.get("header_text"):
        view.texts.append(str(data["header_text"]))
    permissions = [*(data.get("permissions") or ()), *(data.get("additional_permissions") or ())]
    view.items += [str(item.get("name")) for item in permissions if isinstance(item, Mapping) and item.get("name")]
    if view.items:
        view.texts.append("The application gets access to:")
    view.hidden.append(("token", str(data.get("token", ""))))
    view.buttons.append(Button("Continue"))


_INPUTS = {
    "text": "text", "username": "text", "email": "email", "password": "password", "number": "number",
    "date": "date", "date-time": "datetime-local", "text_area": "textarea", "dropdown": "select",
    "radio-button-group": "radio", "checkbox": "checkbox", "file": "file", "text_read_only": "readonly",
    "text_area_read_only": "readonly", "hidden": "", "static": "static", "separator": "separator", "ak-locale": "text",
}  # fmt: skip
_COMPLETE = {"username": "username", "email": "email", "password": "new-password"}


def _prompt(view: View, data: Mapping[str, Any]) -> None:
    for item in data.get("fields") or ():
        kind = _INPUTS.get(str(item.get("type")), "text")
        if not kind:
            continue  # what is hidden is filled in on the server
        value = str(item.get("initial_value") or "")
        if kind == "static" and not value:
            value = str(item.get("placeholder") or "")
        view.upload = view.upload or kind == "file"
        view.fields.append(
            Field(
                str(item.get("field_key")),
                str(item.get("label") or ""),
                kind,
                value,
                _COMPLETE.get(str(item.get("type")), "off"),
                required=bool(item.get("required")) and kind not in ("checkbox", "static", "separator"),
                placeholder=str(item.get("placeholder") or ""),
                help=str(item.get("sub_text") or ""),
                choices=[(str(c.get("value")), str(c.get("label"))) for c in item.get("choices") or ()],
            )
        )
    view.buttons.append(Button("Continue"))


def _user_login(view: View, data: Mapping[str, Any]) -> None:
    view.texts.append("Stay signed in on this device?")
    view.buttons += [Button("Yes", JSON + "remember_me", "true"), Button("No", JSON + "remember_me", "false", True)]


def _dummy(view: View, data: Mapping[str, Any]) -> None:
    view.texts.append(str(data.get("name") or ""))
    view.buttons.append(Button("Continue"))


def _email(view: View, data: Mapping[str, Any]) -> None:
    view.texts.append("Check your inbox: a mail with a link is on its way to you.")
    view.buttons.append(Button("Send the mail again", secondary=True))


def _totp(view: View, data: Mapping[str, Any]) -> None:
    view.texts.append("Add this address to your authenticator app, then enter the code that it shows.")
    view.codes.append(str(data.get("config_url") or ""))
    view.links.append(Link("Open in an authenticator app", str(data.get("config_url") or "")))
    view.fields.append(_code_field())
    view.buttons.append(Button("Continue"))


def _static(view: View, data: Mapping[str, Any]) -> None:
    view.texts.append("Keep these recovery codes in a safe place. Each works once.")
    view.codes += [str(code) for code in data.get("codes") or ()]
    view.buttons.append(Button("Continue"))


def _sms(view: View, data: Mapping[str, Any]) -> None:
    if data.get("phone_number_required"):
        view.fields.append(Field("phone_number", "Phone number", "tel", autocomplete="tel", required=True))
    else:
        view.texts.append("A code was sent to your phone.")
        view.fields.append(_code_field())
    view.buttons.append(Button("Continue"))


def _email_setup(view: View, data: Mapping[str, Any]) -> None:
    if data.get("email_required"):
        view.fields.append(Field("email", "Email address", "email", autocomplete="email", required=True))
    else:
        view.texts.append(f"A code was sent to {data.get('email') or 'your address'}.")
        view.fields.append(_code_field())
    view.buttons.append(Button("Continue"))


def _duo(view: View, data: Mapping[str, Any]) -> None:
    view.texts.append("Open this code in the Duo app on your phone, then continue.")
    view.codes.append(str(data.get("activation_code") or ""))
    view.buttons.append(Button("Continue"))


def _autosubmit(view: View, data: Mapping[str, Any]) -> None:
    view.title = str(data.get("title") or view.title)
    view.texts.append("Continue to the application.")
    view.action = str(data.get("url") or "")
    view.hidden += [(str(name), str(value)) for name, value in (data.get("attrs") or {}).items()]
    view.buttons.append(Button("Continue"))


def _denied(view: View, data: Mapping[str, Any]) -> None:
    view.title = "Access denied"
    view.errors.append(str(data.get("error_message") or "Request has been denied."))
    view.links.append(Link("Back to the start page", "/"))


def _flow_error(view: View, data: Mapping[str, Any]) -> None:
    view.title = "Something went wrong"
    view.errors.append("The request could not be processed. Please try again.")
    if data.get("error"):
        view.codes.append(str(data["error"]))
    view.texts.append(f"Request ID: {data.get('request_id', '')}")
    view.links.append(Link("Back to the start page", "/"))


def _session_end(view: View, data: Mapping[str, Any]) -> None:
    view.texts.append(f"You have logged out of {data.get('application_name') or 'the application'}.")
    view.links.append(Link("Go to your applications", "/if/user/"))
    if data.get("invalidation_flow_url"):
        view.links.append(
            Link(f"Log out of {data.get('brand_name') or 'this site'}", str(data["invalidation_flow_url"]))
        )
    if data.get("application_launch_url"):
        name = data.get("application_name") or "the application"
        view.links.append(Link(f"Log back into {name}", str(data["application_launch_url"])))


def _unknown(view: View, data: Mapping[str, Any]) -> None:
    view.errors.append(NOT_WITHOUT_SCRIPT)


_COMPONENTS: dict[str, Callable[[View, Mapping[str, Any]], None]] = {
    "ak-stage-identification": _identification,
    "ak-stage-password": _password,
    "ak-stage-authenticator-validate": _validate,
    "ak-stage-consent": _consent,
    "ak-stage-prompt": _prompt,
    "ak-stage-user-login": _user_login,
    "ak-stage-dummy": _dummy,
    "ak-stage-email": _email,
    "ak-stage-authenticator-totp": _totp,
    "ak-stage-authenticator-static": _static,
    "ak-stage-authenticator-sms": _sms,
    "ak-stage-authenticator-email": _email_setup,
    "ak-stage-authenticator-duo": _duo,
    "ak-stage-autosubmit": _autosubmit,
    "ak-stage-access-denied": _denied,
    "ak-stage-flow-error": _flow_error,
    "ak-stage-session-end": _session_end,
}
