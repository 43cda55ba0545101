"""Access-Request: from the packet to the core's verdict and back to a reply.

The way of a password (PAP, RFC 2865 §5.2): what can be said without asking anybody, then the login flow on the core,
then the reply attributes that the access check brought. EAP takes the same way with a session around it
(``conversations``); an answer to an Access-Challenge goes on with the login that waits for it (``challenge``).

``refusals`` is the one table of everything that is not a success. Success is stated in one place, ``accept``, which
needs a ``Grant``; a ``Grant`` is made in one place, out of ``Passed``. No answer of the core is silence, so that the
client asks its next server; whatever else happens, an exception included, is a reject or silence.

Chap and MS-Chap cannot be: they need a password that the core can read. They are refused before any flow.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from common import logs, metrics
from common.flow import split_code
from common.outcomes import (
    CoreSession,
    Credentials,
    Denied,
    LoginTarget,
    Outcome,
    Passed,
    Paused,
    Reason,
    Unavailable,
)
from outposts.radius import refusals
from outposts.radius.attributes import (
    CLASS_SIZE,
    AttributesError,
    accept_attributes,
    room_for,
    text_attributes,
    vlan_for,
)
from outposts.radius.challenge import Challenges
from outposts.radius.conversations import Conversations
from outposts.radius.eap.packet import failure_for, without_realm
from outposts.radius.eap.steps import Succeed
from outposts.radius.gate import Gate
from outposts.radius.request import Answer, Request, Silence
from outposts.radius.rfc import MAX_VALUE, VENDOR_MICROSOFT, Attribute, Code, MicrosoftAttribute
from outposts.radius.wire import Attributes, PacketError, make_salts, mppe_keys, reveal_password, split_long

DENIED_TEXT = "Access denied."  # the neutral Reply-Message; says nothing about why
MAX_ENDED = 10_000  # session ends remembered while logins are under way
ENDED_S = 180.0  # longer than any login may take
# Octets kept free in an EAP Accept: EAP-Success (6), two keys (58 each), EAP-Key-Name (67).
EAP_RESERVED = 6 + 2 * 58 + 67

_USER_NAME, _USER_PASSWORD = int(Attribute.USER_NAME), int(Attribute.USER_PASSWORD)
_CHAP_PASSWORD, _EAP_MESSAGE = int(Attribute.CHAP_PASSWORD), int(Attribute.EAP_MESSAGE)
_STATE, _VENDOR_SPECIFIC = int(Attribute.STATE), int(Attribute.VENDOR_SPECIFIC)

log = logs.get_logger("radius.auth")


class LoginPort(Protocol):
    """What this part needs of ``common.login.LoginService``."""

    async def begin(
        self, target: LoginTarget, credentials: Credentials, *, interactive: bool, sealable: bool = False
    ) -> Outcome | Paused:
        """Run the flow and the access check, or come to stand at a question."""

    def restore(self, sealed: bytes, binding: bytes = b"") -> Paused | None:
        """A paused login from its sealed form."""


@dataclass(slots=True)
class Said:
    """What an Access-Accept says of its user: the core's blob, a VLAN, Class, User-Name."""

    blob: str | None = field(repr=False)
    vlan: str | None
    class_: bytes = field(repr=False)
    user_name: str | None

    def attributes(
        self, request: Request, keys: Attributes = (), *, reserved: int = 0, eap: bool = False
    ) -> Attributes:
        """All of it, beside how EAP ended, for which ``reserved`` octets are kept. Raises ``AttributesError``."""
        return accept_attributes(
            self.blob,
            room=room_for(request.packet, reserved),
            keys=keys,
            eap=eap,
            vlan=self.vlan,
            class_=self.class_ or None,
            user_name=self.user_name,
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """What the core granted. Made by ``Authenticator.grant`` alone.

    ``attributes`` are for the request that was granted; EAP goes on with others, and makes them anew.
    """

    session: CoreSession
    username: str
    said: Said
    attributes: Attributes = field(repr=False)
    core_request: str = ""


# Told of each accepted login: the request, the core's session, Class and User-Name of the reply (empty: none).
Accepted = Callable[[Request, CoreSession, bytes, str], None]


class Authenticator:
    """Decides Access-Requests. One per process.

    ``now()`` is the clock of ``Request.received_at``; ``random(n)`` gives n octets of chance. ``worker`` is this
    process's number, which every State begins with. ``on_accept`` is told of each accepted login.
    """

    def __init__(
        self,
        login: LoginPort,
        *,
        now: Callable[[], float] = time.monotonic,
        random: Callable[[int], bytes] = os.urandom,
        worker: int = 0,
        challenges: Challenges | None = None,
        on_accept: Accepted = lambda request, session, class_, user_name: None,
        on_core_answer: Callable[[], None] = lambda: None,
    ) -> None:
        self._login = login
        self._now = now
        self._random = random
        self._on_accept = on_accept
        self._on_core_answer = on_core_answer
        self.gate = Gate(now)
        self.challenges = challenges or Challenges(login, monotonic=now, random=random, worker=worker)
        self.conversations: Conversations[Grant] = Conversations(self, now=now, random=random, worker=worker)
        self._ended: OrderedDict[str, float] = OrderedDict()

    # -- one request -------------------------------------------------------------------------------------------------

    def decide(self, request: Request) -> Answer | Silence | Coroutine[Any, Any, Answer | Silence]:
        """The answer where nobody has to be asked, else what is to be awaited for it. Never raises."""
        try:
            return self._decide(request)
        except Exception:
            log.exception("request failed unexpectedly", client=request.client_ip)
            return Silence("unexpected")

    async def answer(self, request: Request) -> Answer | Silence:
        """Decide one Access-Request. Never raises but for cancellation."""
        try:
            outcome = self.decide(request)
            return outcome if isinstance(outcome, Answer | Silence) else await outcome
        except Exception:
            log.exception("request failed unexpectedly", client=request.client_ip)
            return Silence("unexpected")

    def _decide(self, request: Request) -> Answer | Silence | Coroutine[Any, Any, Answer | Silence]:
        packet, provider = request.packet, request.provider
        name = hidden = state = None
        chap = vendors = False
        for kind, value in packet.attributes:
            if kind == _USER_NAME:
                name = value if name is None else name
            elif kind == _USER_PASSWORD:
                hidden = value if hidden is None else hidden
            elif kind == _STATE:
                state = value if state is None else state
            elif kind == _EAP_MESSAGE:
                return self.conversations.begin(request)
            elif kind == _CHAP_PASSWORD:
                chap = True
            elif kind == _VENDOR_SPECIFIC:
                vendors = True
        if chap or (vendors and any(packet.vendor(VENDOR_MICROSOFT, number) for number in _MS_CHAP)):
            return self._refuse(request, "unsupported_auth")
        if not name:
            return self._refuse(request, "no_user_name")
        try:
            username = name.decode()
        except UnicodeDecodeError:
            return self._refuse(request, "malformed_user_name")
        if provider.strip_realm:
            username = without_realm(username)
        if not username.strip():
            return self._refuse(request, "no_user_name")
        if hidden is None:
            return self._refuse(request, "no_password")
        if provider.client_ca and provider.eap_require_ca:
            return self._refuse(request, "certificate_required")
        if state is not None:
            if not self.challenges.may_know(state):
                return self._refuse(request, Reason.CHALLENGE_EXPIRED)
            return self._go_on(request)
        try:
            password = reveal_password(provider.secret, packet.authenticator, hidden).decode()
        except PacketError as error:
            return self._refuse(request, error.reason)
        except UnicodeDecodeError:
            # Nearly always another shared secret: nobody's failed login, and the client will not take the reply.
            return self._refuse(request, "undecodable_password", message="probably another shared secret on the client")
        if not password and not (provider.challenge or provider.allow_push_only):
            return self._refuse(request, "empty_password")
        return self._password(request, username, password)

    async def _password(self, request: Request, username: str, password: str) -> Answer | Silence:
        """A password: run the flow."""
        credentials = Credentials(username, password, request.delegated_ip)
        outcome = await self.login(request, credentials, interactive=request.provider.challenge)
        return await self._concluded(request, outcome, username)

    async def _go_on(self, request: Request) -> Answer | Silence:
        """An answer to a challenge of ours, or what claims to be one."""
        outcome = await self.gate.run(request, _account(request), lambda: self.challenges.answer(request))
        self._heard(outcome)
        outcome = _without_secrets(outcome, _typed(request))
        silence = None if not isinstance(outcome, Unavailable) else self.undecided(request, outcome, "")
        # What was typed is used up, whatever came of it.
        return replace(silence, again=False) if silence is not None else await self._concluded(request, outcome, "")

    async def _concluded(self, request: Request, outcome: Outcome | Paused, username: str) -> Answer | Silence:
        """An outcome as a reply; EAP has its own way (``Conversations``)."""
        if isinstance(outcome, Passed):
            grant = self.grant(request, outcome, eap=False)
            if isinstance(grant, Grant):
                return self.accept(request, grant, None)
            return self._refuse(request, grant, username=outcome.username or username)
        if isinstance(outcome, Paused):
            if not request.provider.challenge:
                await outcome.abandon()
                return self._refuse(request, "mfa_required", username=username)
            return await self.challenges.ask(request, outcome)
        if isinstance(outcome, Unavailable):
            silence = self.undecided(request, outcome, username)
            if silence is not None:
                return silence
        return self._refuse(
            request,
            refusals.label(outcome),
            username=username,
            stage=outcome.stage if isinstance(outcome, Denied) else "",
            message=outcome.message,
            core_request=outcome.core_request if isinstance(outcome, Denied) else "",
        )

    # -- logins on the core ------------------------------------------------------------------------------------------

    async def login(self, request: Request, credentials: Credentials, *, interactive: bool) -> Outcome | Paused:
        """Run a login on the core when its turn comes. Never raises but for cancellation."""
        provider = request.provider
        if not credentials.certificate_only and provider.client_ca and provider.eap_require_ca:
            return Denied("certificate_required", "this provider takes certificates only")
        target = LoginTarget(
            protocol="radius",
            provider_pk=provider.pk,
            flow_slug=provider.flow_slug,
            application_slug=provider.application_slug,
            mfa_support=provider.mfa_support,
            allow_push_only=provider.allow_push_only,
            want_user=provider.echo_user or bool(provider.vlan_by_group),
            auto_consent=provider.auto_consent,
            bind_identity=provider.eap_bind_identity,
        )
        outcome = await self.gate.run(
            request,
            credentials.username,
            lambda: self._login.begin(
                target, credentials, interactive=interactive, sealable=interactive and self.challenges.shared
            ),
        )
        self._heard(outcome)
        return _without_secrets(outcome, credentials.password)

    async def go_on(self, request: Request, paused: Paused, text: str) -> Outcome | Paused:
        """Go on with a login that waits for a person's answer. Never raises but for cancellation."""
        outcome = await self.gate.run(request, paused.username, lambda: paused.answer(text))
        self._heard(outcome)
        return _without_secrets(outcome, text)

    def _heard(self, outcome: Outcome | Paused) -> None:
        """The core has answered; whatever it said."""
        if not isinstance(outcome, Unavailable) and not (
            isinstance(outcome, Denied) and outcome.reason in refusals.NO_GUESS
        ):
            self._on_core_answer()

    # -- replies -----------------------------------------------------------------------------------------------------

    def grant(self, request: Request, passed: Passed, *, eap: bool, username: str = "") -> Grant | str:
        """What the Accept will be made of, or the label of the reason why there can be none.

        Asked before anything is promised: in EAP, the client hears of success before the Accept is sent. ``username``
        is whom the log names if the core has not said who it is; without it User-Name is.
        """
        provider = request.provider
        if passed.session.session_id in self._ended:
            return "session_ended"
        if passed.attributes is None:
            metrics.radius_mapping_errors.labels(provider.application_slug).inc()
            log.warning("no reply attributes: a property mapping failed on the core", provider=provider.name)
            if provider.on_mapping_error == "reject":
                return "mapping_error"
        said = Said(
            passed.attributes,
            vlan_for(passed.groups, provider.vlan_by_group) if provider.vlan_by_group else None,
            self._random(CLASS_SIZE) if provider.add_class else b"",
            passed.username if provider.echo_user else None,
        )
        try:
            attributes = said.attributes(request, reserved=EAP_RESERVED if eap else 0, eap=eap)
        except AttributesError as error:
            return error.reason
        name = passed.username or username or (request.packet.first(_USER_NAME) or b"").decode("utf-8", "replace")
        return Grant(passed.session, name, said, attributes, passed.core_request)

    def accept(self, request: Request, grant: Grant, success: Succeed | None) -> Answer:
        """The Access-Accept: the only place that states one. ``success``: how EAP ended; None for a password."""
        if grant.session.session_id in self._ended:  # between the core's yes and the end of EAP a minute may pass
            attributes: Attributes | str = "session_ended"
        else:
            attributes = grant.attributes if success is None else self._with_keys(request, grant, success)
        if isinstance(attributes, str):
            eap = failure_for(request.packet.joined(_EAP_MESSAGE))
            return self.reject(request, attributes, eap=eap, username=grant.username, stage="", message="")
        self._on_accept(request, grant.session, grant.said.class_, grant.said.user_name or "")
        return Answer(Code.ACCESS_ACCEPT, attributes, username=grant.username, core_request=grant.core_request)

    def _with_keys(self, request: Request, grant: Grant, success: Succeed) -> Attributes | str:
        """The attributes of an Accept that ends EAP, or the label of why not: Proxy-State has grown."""
        packet = request.packet
        end = split_long(_EAP_MESSAGE, success.eap)
        if packet.first(Attribute.EAP_KEY_NAME) is not None and 0 < len(success.session_id) <= MAX_VALUE:
            end = ((Attribute.EAP_KEY_NAME, success.session_id), *end)
        keys = mppe_keys(request.provider.secret, packet.authenticator, success.msk, make_salts(self._random(4)))
        reserved = sum(len(value) + 2 for _, value in end)
        try:
            return (*grant.said.attributes(request, keys, reserved=reserved, eap=True), *end)
        except AttributesError as error:
            return error.reason

    def reject(
        self,
        request: Request,
        label: str,
        *,
        eap: bytes,
        username: str,
        stage: str,
        message: str,
        core_request: str = "",
    ) -> Answer:
        """The Access-Reject of an EAP conversation; no Reply-Message beside EAP (RFC 3579 §2.6.5)."""
        return Answer(
            Code.ACCESS_REJECT,
            split_long(_EAP_MESSAGE, eap),
            reason=label,
            username=username,
            stage=stage,
            message=message,
            core_request=core_request,
        )

    def _refuse(
        self,
        request: Request,
        label: str,
        *,
        username: str = "",
        stage: str = "",
        message: str = "",
        core_request: str = "",
    ) -> Answer:
        """The Access-Reject of a password."""
        said = text_attributes(Attribute.REPLY_MESSAGE, DENIED_TEXT) if request.provider.reply_message else ()
        return Answer(
            Code.ACCESS_REJECT,
            said,
            reason=label,
            username=username,
            stage=stage,
            message=message,
            core_request=core_request,
        )

    def undecided(self, request: Request, outcome: Unavailable, username: str) -> Silence | None:
        """Silence where the core could not decide; None where the operator wants a reject instead.

        Too many requests are never a reason for a reject: the next server may have time.
        """
        if outcome.reason != refusals.OVERLOAD and request.provider.on_core_error == "reject":
            return None
        again = outcome.reason in refusals.AGAIN or outcome.reason == refusals.OVERLOAD
        return Silence(refusals.label(outcome), again, outcome.message, username)

    # -- ends --------------------------------------------------------------------------------------------------------

    def session_ended(self, session_id: str) -> None:
        """A session of the core has ended: a login that is about to be granted with it is not."""
        now = self._now()
        self._ended[session_id] = now
        while self._ended and (len(self._ended) > MAX_ENDED or next(iter(self._ended.values())) < now - ENDED_S):
            self._ended.popitem(last=False)

    def sweep(self, now: float) -> bool:
        """Give up conversations that nobody goes on with; to be called every few seconds. Whether more are left."""
        more = self.conversations.exchanges.sweep(now)
        return self.challenges.sweep(now) or more

    def end_providers(self, gone: Callable[[int], bool]) -> None:
        """Give up the conversations of providers (by pk) that are gone or have changed."""
        self.conversations.exchanges.end_providers(gone)
        self.challenges.exchanges.end_providers(gone)

    async def close(self) -> None:
        """Give up everything."""
        await self.challenges.close()
        await self.conversations.close()


_MS_CHAP = (MicrosoftAttribute.MS_CHAP_RESPONSE, MicrosoftAttribute.MS_CHAP2_RESPONSE)


def _account(request: Request) -> str:
    """Whose failed answers are counted: the name that the login began with, or another realm would be another count."""
    name = (request.packet.first(_USER_NAME) or b"").decode("utf-8", "replace")
    return without_realm(name) if request.provider.strip_realm else name


def _typed(request: Request) -> str:
    """What was typed as the answer to a challenge, as far as it can be read."""
    hidden = request.packet.first(_USER_PASSWORD) or b""
    try:
        return reveal_password(request.provider.secret, request.packet.authenticator, hidden).decode()
    except (PacketError, UnicodeDecodeError):
        return ""


def _without_secrets(outcome: Outcome | Paused, secret: str) -> Outcome | Paused:
    """The core's text is for a log line: withheld whole if it quotes what the client sent as a secret."""
    if not isinstance(outcome, Denied | Unavailable) or not outcome.message:
        return outcome
    secrets = (secret, *split_code(secret), "-----BEGIN ")
    if any(one in outcome.message for one in secrets if one):
        return replace(outcome, message="(withheld: it quotes a secret)")
    return outcome
