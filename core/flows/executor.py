"""Executor: one HTTP request to a flow in, one answer out (flows.md §3).

::

    plan in the session? ── no ──► planner ──► not applicable ──► denied (§3.7), or finished for who is logged in
          │ yes                        └────► empty ──────────► finished (§3.6)
          ▼
    current stage (markers evaluated) ── none left ──► finished
          │
          ▼ handle(method, data)
    Challenge → 200 · Errors → restart or the challenge again · Invalid → restart or denied ·
    Advance → 302 to the same address, or finished · Redirect → 200 xak-flow-redirect · exception → flow error

Headless clients read ``xak-flow-redirect`` as success, so advancing is never answered that way, and the end of a flow
is stated in :meth:`Executor._finished` only. The stage registry is handed in.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from common.logs import get_logger
from core import models
from core.errors import Busy
from core.flows.plan import Plan, PlanError, PlannedStage
from core.flows.planner import EmptyFlow, FlowCatalogue, FlowNotApplicable, Planner
from core.http_request import HTTPRequest
from core.services import Services
from core.sessions import HISTORY, PLAN, SessionHandle
from core.stages.base import Advance, Challenge, ChallengeStage, Errors, Invalid, Outcome, Redirect, Stage, user_fields

log = get_logger(__name__)

DENIED = "Access denied."
DEBUG_ATTRIBUTE = "goauthentik.io/user/debug"  # a user with this attribute sees tracebacks
MAX_SKIPPED = 1000  # stages that one request may skip by their markers; a policy that keeps inserting ends here


@dataclass(frozen=True)
class Reply:
    """An executor answer: JSON ``data``, or a 302 to ``location``."""

    data: dict[str, Any] | None = None
    location: str | None = None


class RequestRefused(Exception):
    """The request is malformed: wrong method, no JSON object, no CSRF token."""


@dataclass
class Run:
    """One request in one flow: what stages may use."""

    flow: models.Flow
    plan: Plan
    request: HTTPRequest
    session: SessionHandle
    services: Services
    stage_types: Mapping[str, type[Stage]]
    planner: Planner

    @property
    def pending_user(self) -> models.User | None:
        """The user whom the flow is about: the pending one, else who is logged in."""
        pending = self.plan.context.get("pending_user")
        if isinstance(pending, models.User):
            return pending
        return self.request.user if self.request.user.is_authenticated else None

    def insert(self, stage: models.Stage) -> None:
        """Let a stored stage be the next one, without policies of its own."""
        self.plan.insert_stage(PlannedStage(stage=stage.pk, type=stage.type))


class Executor:
    """Runs flows. ``stage_types`` maps model names to stage classes (``core.stages.STAGES``)."""

    def __init__(self, services: Services, catalogue: FlowCatalogue, stage_types: Mapping[str, type[Stage]]) -> None:
        self._services = services
        self._catalogue = catalogue
        self._planner = Planner(services, catalogue)
        self._stage_types = stage_types

    async def execute(
        self,
        flow: models.Flow,
        request: HTTPRequest,
        session: SessionHandle,
        *,
        body: bytes,
        content_type: str,
        csrf_header: str | None,
    ) -> Reply:
        """Answer one request. The caller writes the session afterwards, whatever happened here.

        :raises Busy: too many passwords are being checked; nothing was decided.
        """
        try:
            try:
                plan = self._restored(flow, request, session) or self._stored_plan(flow, session)
            except PlanError:
                session.remove(PLAN)
                return self._denied(self._run(flow, Plan(flow.pk), request, session), DENIED)
            if plan is None:
                session.put(HISTORY, [])
                try:
                    plan = await self._planner.plan(flow, request)
                except FlowNotApplicable as refusal:
                    return self._not_applicable(self._run(flow, Plan(flow.pk), request, session), refusal)
                except EmptyFlow:
                    return self._finished(self._run(flow, Plan(flow.pk), request, session))
            run = self._run(flow, plan, request, session)
            return await self._step(run, body, content_type, csrf_header)
        except Busy:
            raise
        except Exception as error:
            # what the stage did to the context so far is kept only if it can be written
            return self._flow_error(request, error)

    async def begin(
        self, flow: models.Flow, request: HTTPRequest, session: SessionHandle, context: dict[str, Any]
    ) -> None:
        """Plan a flow with a context of the caller's, uncached, and make it the session's (§2.5).

        :raises FlowNotApplicable: it may not start.
        :raises EmptyFlow: there is no stage.
        """
        plan = await self._planner.plan(flow, request, context)
        session.put(HISTORY, [])
        session.put(PLAN, plan.to_data())

    def _run(self, flow: models.Flow, plan: Plan, request: HTTPRequest, session: SessionHandle) -> Run:
        return Run(flow, plan, request, session, self._services, self._stage_types, self._planner)

    def _restored(self, flow: models.Flow, request: HTTPRequest, session: SessionHandle) -> Plan | None:
        """The plan of a live token in the query (§3.8); an unknown or old one is as good as none.

        What the browser's own plan of this flow knows goes over the token's context.
        """
        key, database = request.query.get("flow_token", ""), self._services.database
        token = database.first(models.FlowToken, key=key) if key else None
        if token is None or token.flow != flow.pk:
            return None
        plan = Plan.from_data(msgspec.json.decode(token.plan), self._resolve)
        own = self._stored_plan(flow, session)
        if own is not None:
            plan.context |= own.context
        plan.context["is_restored"] = token
        if token.revoke_on_execution:
            database.delete(token)
        return plan

    def _stored_plan(self, flow: models.Flow, session: SessionHandle) -> Plan | None:
        """The session's plan if it is one of this flow; a plan of another flow is dropped."""
        data = session.get(PLAN)
        if data is None:
            return None
        if not isinstance(data, dict) or data.get("flow") != flow.pk:
            session.remove(PLAN)
            return None
        return Plan.from_data(data, self._resolve)

    def _resolve(self, model: type[models.Model], pk: Any) -> models.Model | None:
        """A stored object that a plan refers to, as it is now."""
        database = self._services.database
        return database.user(pk) if model is models.User else database.first(model, pk=pk)

    async def _step(self, run: Run, body: bytes, content_type: str, csrf_header: str | None) -> Reply:
        stage = await self._current(run)
        if stage is None:
            return self._finished(run)
        if isinstance(stage, Invalid):
            return self._denied(run, stage.message)
        self._save(run)
        method, data = self._read(run, body, content_type, csrf_header)
        outcome = await stage.handle(method, data)
        return await self._answer(run, stage, outcome)

    async def _current(self, run: Run) -> Stage | Invalid | None:
        """The stage to run now; planned stages whose policies fail are removed for good. ``None``: none is left."""
        plan = run.plan
        for _ in range(MAX_SKIPPED):
            if not plan.stages:
                return None
            planned = plan.stages[0]
            binding, record = self._look_up(run.flow, planned)
            if record is None:
                return Invalid()  # the stage was deleted or bound elsewhere while the flow ran
            if planned.re_evaluate and binding is not None:
                pending = plan.context.get("pending_user")
                subject = pending if isinstance(pending, models.User) else run.request.user
                if not await self._planner.passes(binding, plan, subject, run.request):
                    plan.pop()
                    continue
            stage_type = self._stage_types.get(record.type)
            if stage_type is None:
                raise LookupError(f"no stage type {record.type}")
            return stage_type(run, record, binding)
        raise RuntimeError("a flow keeps inserting stages that its policies remove")

    def _look_up(
        self, flow: models.Flow, planned: PlannedStage
    ) -> tuple[models.StageBinding | None, models.Stage | None]:
        if planned.binding:
            found = self._catalogue.binding(flow, planned.binding)
            return found if found is not None else (None, None)
        if planned.stage:
            return None, self._services.database.first(models.Stage, pk=planned.stage)
        return None, models.Stage(type=planned.type, name=planned.type, options=planned.options)

    def _read(
        self, run: Run, body: bytes, content_type: str, csrf_header: str | None
    ) -> tuple[str, Mapping[str, Any] | None]:
        """Method and data of a request that may be acted on.

        :raises RequestRefused: other method, no JSON object, or an authenticated session without CSRF token.
        """
        request = run.request
        if request.method in ("GET", "HEAD"):
            return "GET", None
        if request.method != "POST":
            raise RequestRefused("method not allowed")
        if run.session.authenticated and not (
            run.session.csrf_matches(request.cookies, csrf_header) and same_origin(request)
        ):
            raise RequestRefused("CSRF token missing or wrong")
        if not body:
            return "POST", {}
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise RequestRefused("the body is not JSON")
        try:
            data = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RequestRefused("the body is not JSON") from None
        if not isinstance(data, dict):
            raise RequestRefused("the body is no JSON object")
        return "POST", data

    async def _answer(self, run: Run, stage: Stage, outcome: Outcome) -> Reply:
        match outcome:
            case Challenge():
                self._save(run)
                return Reply(_challenge(run, outcome))
            case Redirect():
                self._save(run)
                return self._redirect(run, outcome.to)
            case Advance():
                run.plan.pop()
                if not run.plan.stages:
                    return self._finished(run)
                self._save(run)
                return Reply(location=run.request.target)
            case Invalid():
                if _action(stage) != "retry":
                    return await self._restart(run, stage)
                return self._denied(run, outcome.message)
            case Errors():
                if _action(stage) != "retry":
                    return await self._restart(run, stage)
                if not isinstance(stage, ChallengeStage):
                    raise TypeError("only a stage that asks can refuse a response")
                challenge = await stage.ask()
                self._save(run)
                return Reply(_challenge(run, challenge, outcome))
        raise TypeError("a stage gave no outcome")

    async def _restart(self, run: Run, stage: Stage) -> Reply:
        """Plan anew, with the context or without, and start over at the same address."""
        keep = run.plan.context if _action(stage) == "restart_with_context" else {}
        run.session.remove(PLAN)
        try:
            run.plan = await self._planner.plan(run.flow, run.request, keep)
        except FlowNotApplicable as refusal:
            return self._not_applicable(run, refusal)
        except EmptyFlow:
            return self._finished(run)
        self._save(run)
        return Reply(location=run.request.target)

    def _save(self, run: Run) -> None:
        run.session.put(PLAN, run.plan.to_data())

    def _cancel(self, run: Run) -> None:
        run.session.remove(PLAN)

    def _redirect(self, run: Run, to: str) -> Reply:
        if same_target(to, run.request.target):
            return Reply(location=run.request.target)
        return Reply({"component": "xak-flow-redirect", "to": to})

    # --- the three ends of a flow ----------------------------------------------------------------------------------

    def _finished(self, run: Run) -> Reply:
        """All stages are done (§3.6). The only place where the end of a flow is stated."""
        target = run.plan.context.get("redirect")
        if not (isinstance(target, str) and target):
            target = run.request.query.get("next", "/")
            if not is_local(target):
                return self._denied(run, "Invalid next URL.")
        self._cancel(run)
        return self._redirect(run, target)

    def _not_applicable(self, run: Run, refusal: FlowNotApplicable) -> Reply:
        """The flow may not start (§3.7)."""
        flow, request = run.flow, run.request
        if flow.designation == "authentication" and request.user.is_authenticated:
            return self._finished(run)
        if request.outpost is None and flow.denied_action in ("continue", "message_continue"):
            target = request.query.get("next")
            if target is not None and is_local(target):
                self._cancel(run)
                return self._redirect(run, target)
            if flow.denied_action == "continue":
                self._cancel(run)
                return self._redirect(run, "/")
        return self._denied(run, refusal.text)

    def _denied(self, run: Run, message: str) -> Reply:
        """Refuse and forget the plan."""
        self._cancel(run)
        data = {"error_message": message or DENIED}
        return Reply(_challenge(run, Challenge("ak-stage-access-denied", data, user_info=True)))

    def _flow_error(self, request: HTTPRequest, error: Exception) -> Reply:
        data: dict[str, Any] = {"component": "ak-stage-flow-error", "request_id": request.request_id}
        if isinstance(error, RequestRefused):
            log.info("flow request refused", reason=str(error), request_id=request.request_id)
            return Reply(data)
        # the text of an unknown exception may hold what was typed: only its type goes into log and event
        log.warning("flow failed", error=type(error).__name__, at=_place(error), request_id=request.request_id)
        self._services.event("system_exception", request, error=type(error).__name__, at=_place(error))
        user = request.user
        if user.is_superuser or (user.is_authenticated and user.group_attributes(request).get(DEBUG_ATTRIBUTE) is True):
            data["error"] = f"{type(error).__name__}: {error}"
            data["traceback"] = "".join(traceback.format_exception(error))
        return Reply(data)


def _action(stage: Stage) -> str:
    return stage.binding.invalid_response_action if stage.binding is not None else "retry"


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "?"


def _challenge(run: Run, challenge: Challenge, errors: Errors | None = None) -> dict[str, Any]:
    """A challenge in its envelope (§3.4)."""
    data: dict[str, Any] = {"flow_info": _flow_info(run), "component": challenge.component}
    if errors is not None:
        data["response_errors"] = {
            name: [{"string": text, "code": code} for text, code in found] for name, found in errors.fields.items()
        }
    if challenge.user_info:
        data |= user_fields(run.plan.context.get("pending_user_identifier"), run.pending_user)
    return data | challenge.data


def _flow_info(run: Run) -> dict[str, Any]:
    flow, request, context = run.flow, run.request, run.plan.context
    cancel = "/flows/-/cancel/"
    if "next" in request.query:
        cancel += "?next=" + quote(request.query["next"], safe="")
    background = flow.background or (request.brand.branding_default_flow_background if request.brand else "")
    return {
        "title": _title(flow.title, context, run.pending_user),
        "background": background or "/static/dist/assets/images/flow_background.jpg",
        "background_themed_urls": None,
        "cancel_url": cancel,
        "layout": flow.layout,
    }


def _title(title: str, context: Mapping[str, Any], pending: models.User | None) -> str:
    if "%" not in title:
        return title
    application = context.get("application")
    names = {
        "app": application.name if isinstance(application, models.Application) else "",
        "user": user_fields(context.get("pending_user_identifier"), pending)["pending_user"],
    }
    try:
        return title % names
    except (KeyError, TypeError, ValueError):
        return title


def is_local(target: str) -> bool:
    """Whether ``next`` stays on this host: it starts with exactly one slash and has nothing a browser reads as host."""
    if not target.startswith("/") or target.startswith(("//", "/\\")):
        return False
    # browsers drop tabs and line ends before they parse, so "/\t/host" would become "//host"
    return not any(ord(letter) < 0x20 or letter == "\x7f" for letter in target) and not urlsplit(target).netloc


def same_target(one: str, other: str) -> bool:
    """Whether two addresses mean the same, however their queries (and queries inside) are encoded."""
    left, right = urlsplit(one), urlsplit(other)
    if (left.scheme, left.netloc, left.path) != ("", "", right.path):
        return False
    return _meaning(left.query) == _meaning(right.query)


def _meaning(query: str) -> list[tuple[str, Any]]:
    return [
        (name, parse_qsl(value, keep_blank_values=True) if name == "query" else value)
        for name, value in parse_qsl(query, keep_blank_values=True)
    ]


def same_origin(request: HTTPRequest) -> bool:
    """Over TLS an unsafe request must name a page of this very host as its origin; without TLS nothing is required."""
    if not request.secure:
        return True
    source = request.headers.get("Origin") or request.headers.get("Referer") or ""
    parts = urlsplit(source)
    return parts.scheme == "https" and parts.netloc.casefold() == request.host.casefold()
