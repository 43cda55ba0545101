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

from core.errors import PolicyFailed, ValidationFailed
from core.policies.base import PolicyOptions, PolicyRequest, PolicyResult, PolicyType
from core.policies.environment import environment

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
        variables = environment(self.services, request, self.policy.name) | {
            "context": request.context,
            "ak_message": lambda text: messages.append(str(text)),
        }
        try:
            result = evaluate(self.options.expression, self.policy.name, variables)
        except (Exception, RecursionError) as error:
            raise PolicyFailed(f"{type(error).__name__}: {error}") from error
        if isinstance(result, PolicyResult):
            return PolicyResult(result.passing, (*messages, *result.messages), result.raw_result)
        return PolicyResult(bool(result), tuple(messages), result)
