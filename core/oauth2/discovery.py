"""The configuration document of an application (OpenID Connect Discovery 1.0 §3), also shown to proxy outposts."""

from __future__ import annotations

import ast
import functools
from typing import Any

from core.database import Database
from core.oauth2.grants import GRANT_TYPES
from core.oauth2.keys import signing_key
from core.oauth2.protocol import ACR, PKCE_METHODS, RESPONSE_MODES
from core.oauth2.providers import Client, mappings, scopes

EXPRESSIONS_KEPT = 256  # expressions whose claim names are kept; an installation has a few dozen
OWN_CLAIMS = ("sub", "iss", "aud", "exp", "iat", "auth_time", "acr", "amr", "nonce")


def document(database: Database, client: Client, base: str) -> dict[str, Any]:
    """Where everything is, as seen from ``base``.

    :raises OAuthError: the provider has no usable key.
    """
    at, own = f"{base}/application/o/", f"{base}/application/o/{client.application.slug}/"
    claims = [*OWN_CLAIMS]
    for mapping in mappings(database, client):
        claims += [name for name in claim_names(str(mapping.options.get("expression", ""))) if name not in claims]
    return {
        "issuer": client.issuer(base),
        "authorization_endpoint": at + "authorize/",
        "token_endpoint": at + "token/",
        "userinfo_endpoint": at + "userinfo/",
        "end_session_endpoint": own + "end-session/",
        "introspection_endpoint": at + "introspect/",
        "revocation_endpoint": at + "revoke/",
        "jwks_uri": own + "jwks/",
        "response_types_supported": ["code"],
        "response_modes_supported": list(RESPONSE_MODES),
        "grant_types_supported": list(GRANT_TYPES),
        "id_token_signing_alg_values_supported": [signing_key(database, client).algorithm],
        "subject_types_supported": ["public"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"]
        + ([] if client.confidential else ["none"]),
        "acr_values_supported": [ACR],
        "scopes_supported": scopes(database, client),
        "claims_supported": claims,
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
        "code_challenge_methods_supported": list(PKCE_METHODS),
    }


@functools.lru_cache(EXPRESSIONS_KEPT)
def claim_names(expression: str) -> tuple[str, ...]:
    """The keys of dictionaries that an expression returns, as far as they are written in its text."""
    try:
        tree = ast.parse(f"def f():\n pass\n{_indented(expression)}")
    except (SyntaxError, ValueError, RecursionError):
        return ()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Dict):
            found += [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
    return tuple(name for name in found if isinstance(name, str))


def _indented(text: str) -> str:
    return "".join(f" {line}\n" for line in text.splitlines())
