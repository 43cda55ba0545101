"""Whom a bind names: provider, user name for the flow, and the name in the form that is compared.

Nothing here asks whether the user exists: that is the core's to say, and it says the same of unknown users and wrong
passwords.
"""

from __future__ import annotations

import re

from outposts.ldap import sasl
from outposts.ldap.dn import DN, DNError
from outposts.ldap.providers import Provider, Providers, ProviderSettings

# A name that is no DN but one of the other forms people type: alice, alice@example.org, EXAMPLE\alice.
PLAIN_NAME = re.compile(r"[^\s,=+<>#;\"]+")


def find_user(name: bytes, providers: Providers) -> tuple[ProviderSettings, str, bytes] | str:
    """Provider, user name for the flow and normalised name for a bind name; or the reason of a refusal.

    A DN below a provider's base names the user by the first ``cn`` (with ``dn_attribute=uid``: the first ``uid``, else
    ``cn``) left of the base, wherever it stands; letter case is kept for the flow. With ``bind_names`` a provider also
    takes plain user names (``username``), addresses that the flow itself resolves (``mail``), and ``user@domain`` where
    the domain spells the ``dc`` values of its base (``upn``). Plain names that nobody takes are no_provider, other
    text that is not a DN is garbage.
    """
    try:
        dn = DN.parse(name)
    except DNError:
        return _find_plain(name, providers)
    provider = providers.for_name(dn)
    if provider is None or "dn" not in provider.settings.bind_names:
        return "no_provider"
    settings = provider.settings
    username = _name_in(dn, settings)
    return "no_user_name" if username is None else (settings, username, dn.key)


def find_sasl_user(name: str, providers: Providers) -> tuple[ProviderSettings, str, bytes] | str:
    """The same for a name in a SASL message (RFC 4513 §5.2.1.8).

    There a plain user name is the usual form, not an extra: where the only provider in service does not list it in
    ``bind_names``, it takes it all the same.
    """
    found = find_user(name.encode(), providers)
    if found == "no_provider" and len(providers) == 1 and "@" not in name and PLAIN_NAME.fullmatch(name):
        return providers.all[0].settings, name, _plain_key(name)
    return found


def find_certificate_user(authorization_id: str, providers: Providers) -> tuple[ProviderSettings, str] | str:
    """Provider and user name (may be empty) for EXTERNAL, where only the authorization identity can name anybody."""
    if authorization_id:
        name = sasl.name_of(authorization_id)
        found = "authorization_id" if name is None else find_sasl_user(name.decode(), providers)
        if isinstance(found, str):
            return found
        return found[:2] if found[0].client_certificates else "external_off"
    takers = [provider.settings for provider in providers if provider.settings.client_certificates]
    if len(takers) != 1:
        return "external_unclear" if takers else "external_off"
    return takers[0], ""


def _name_in(dn: DN, settings: ProviderSettings) -> str | None:
    own = dn.rdns[: len(dn.rdns) - len(settings.base.rdns)]
    for wanted in ("uid", "cn") if settings.dn_attribute == "uid" else ("cn",):
        for rdn in own:
            for ava in rdn:
                if ava.type == wanted:
                    return ava.value
    return None


def _find_plain(name: bytes, providers: Providers) -> tuple[ProviderSettings, str, bytes] | str:
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return "garbage_dn"
    if not PLAIN_NAME.fullmatch(text):
        return "garbage_dn"
    key = _plain_key(text)
    local, at, domain = text.rpartition("@")
    takers: list[tuple[Provider, str]] = []
    for provider in providers:
        forms = provider.settings.bind_names
        if at and local and "upn" in forms and domain.casefold() == _domain_of(provider.settings.base):
            takers.append((provider, local))
        elif ("mail" if at and local and domain else "" if at else "username") in forms:
            takers.append((provider, text))
    if not takers:
        return "no_provider"
    by_domain = [taker for taker in takers if taker[1] == local]
    provider, username = (by_domain or takers)[0]  # an own domain tells more; else the core's order decides
    return provider.settings, username, key


def _plain_key(text: str) -> bytes:
    return b"\0" + text.casefold().encode()  # no DN's key begins so


def _domain_of(base: DN) -> str:
    return ".".join(ava.value for rdn in base.rdns for ava in rdn if ava.type == "dc").casefold()
