"""Expression policy: the body of a Python function, written by an administrator and trusted like this program.

It is compiled when it is saved and runs in this process against the live plan, in a thread with the binding's time
limit (``threads.py`` says what happens when the time is over). Truthy passes, anything else fails, an exception is a
``PolicyFailed`` with its text.
"""

from __future__ import annotations

import ast
import functools
import re
import types
from typing import Any

import structlog

from core import models
from core.errors import NotFound, PolicyFailed, ValidationFailed
from core.policies.base import PolicyOptions, PolicyRequest, PolicyResult, PolicyType
from core.policies.helpers import HELPERS

log = structlog.get_logger(__name__)

COMPILED_KEPT = 512  # distinct expressions whose compiled form is kept; a large installation has a few dozen
_FUNCTION = "expression"
_NAME = re.compile(r"[:.\-]")


class ExpressionOptions(PolicyOptions):
    """``expression`` is the function's body."""

    expression: str


@functools.lru_cache(maxsize=COMPILED_KEPT)
def compile_body(source: str, name: str) -> types.CodeType:
    """The code of a module that defines one function with ``source`` as body; line numbers stay those of ``source``.

    :raises ValidationFailed: a syntax error, with its line.
    """
    try:
        body = ast.parse(source, filename=name).body or [ast.Pass(lineno=1, col_offset=0)]
        function = ast.parse(f"def {_FUNCTION}(): pass").body[0]
        assert isinstance(function, ast.FunctionDef)
        function.body = body
        tree = ast.fix_missing_locations(ast.Module(body=[function], type_ignores=[]))
        return compile(tree, name, "exec")
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ValidationFailed({"expression": [f"{text}{line}"]}) from None


def evaluate(source: str, name: str, variables: dict[str, Any]) -> Any:
    """Run an expression with these names (``:``, ``.`` and ``-`` in them become ``_``) and return what it returns.

    :raises ValidationFailed: it does not compile.
    """
    scope: dict[str, Any] = {"__builtins__": __builtins__, "__name__": name}
    scope |= {_NAME.sub("_", key): value for key, value in variables.items()}
    exec(compile_body(source, name), scope)
    return scope[_FUNCTION]()


class ExpressionPolicy(PolicyType):
    """Runs an administrator's expression."""

    model = "authentik_policies_expression.expressionpolicy"
    Options = ExpressionOptions
    component = "ak-policy-expression-form"
    verbose_name = "Expression Policy"

    @classmethod
    def read_options(cls, options: dict[str, Any]) -> PolicyOptions:
        """Typed options; the expression is compiled, so that a mistake shows when it is saved."""
        found = super().read_options(options)
        assert isinstance(found, ExpressionOptions)
        compile_body(found.expression, "expression")
        return found

    def passes(self, request: PolicyRequest) -> PolicyResult:
        """Run the expression."""
        messages: list[str] = []
        variables = HELPERS | self._bound(request, messages)
        try:
            result = evaluate(self.options.expression, self.policy.name, variables)
        except (Exception, RecursionError) as error:
            raise PolicyFailed(f"{type(error).__name__}: {error}") from error
        if isinstance(result, PolicyResult):
            return PolicyResult(result.passing, (*messages, *result.messages), result.raw_result)
        return PolicyResult(bool(result), tuple(messages), result)

    def _bound(self, request: PolicyRequest, messages: list[str]) -> dict[str, Any]:
        """The names that depend on the request or reach into storage (flows.md §6.1)."""
        database = self.services.database

        def ak_message(text: str) -> None:
            messages.append(str(text))

        def ak_call_policy(name: str, **context: Any) -> PolicyResult:
            policy = database.first(models.Policy, name=name)
            if policy is None:
                raise NotFound(f"no policy is called {name!r}")
            inner = PolicyRequest(
                user=request.user,
                http_request=request.http_request,
                obj=request.obj,
                context=request.context | context,
                debug=request.debug,
            )
            return self.services.make(policy).passes(inner)

        def ak_user_by(**filters: Any) -> models.User | None:
            return database.first(models.User, **filters)

        def ak_user_has_authenticator(user: models.User, device_type: str | None = None) -> bool:
            if not user.stored:
                return False
            names = {
                type(device).__name__.removesuffix("Device").lower() for device in database.devices_of(user.pk or 0)
            }
            return bool(names) if device_type is None else device_type.lower().removesuffix("device") in names

        def ak_create_event(action: str, **fields: Any) -> None:
            context = {name: _plain(value) for name, value in fields.items()}
            database.log_event(
                f"custom_{action}", "authentik.policies.expression", context=context, user=request.user,
                client_ip=request.client_ip,
            )  # fmt: skip

        bound: dict[str, Any] = {
            "request": request,
            "context": request.context,
            "ak_is_sso_flow": bool(request.context.get("is_sso", False)),
            "ak_message": ak_message,
            "ak_call_policy": ak_call_policy,
            "ak_user_by": ak_user_by,
            "ak_user_has_authenticator": ak_user_has_authenticator,
            "ak_is_group_member": ak_is_group_member,
            "ak_create_event": ak_create_event,
            "ak_logger": log.bind(policy=self.policy.name),
        }
        if request.http_request is not None:
            bound["http_request"] = request.http_request
            bound["ak_client_ip"] = HELPERS["ip_address"](request.client_ip or "255.255.255.255")
        return bound


def ak_is_group_member(user: models.User, **filters: Any) -> bool:
    """Whether the user is a direct or inherited member of a group for which all look-ups hold."""
    return user.all_groups().filter(**filters).exists()


def _plain(value: Any) -> Any:
    """A value as an event can keep it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | models.Related):
        return [_plain(item) for item in value]
    if isinstance(value, models.Model):
        return {"pk": value.pk, "model_name": type(value).__name__.lower()}
    return str(value)
