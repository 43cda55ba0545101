"""What an operator opened or closed beyond "whoever is logged in": paths and networks without login, groups for paths.

**Unauthenticated paths** (``skip_path_regex``): one RE2 expression a line, linear in time whatever the input. They are
matched against the canonical path, or for a whole domain against ``scheme://host[:port]`` and the canonical path; the
query never counts. A path that is not canonical is never open. Blank lines and lines that are no expression open
nothing. In a domain, an expression that names a host has to begin to match in front of the path, so that
``https://other.example.com/https:/open.example.com/`` opens nothing.

**Groups for paths**: ``/admin=admins|staff``, or with a host in front. All rules that match have to be met, each by one
of its groups. A path that is not canonical has to meet them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import re2

from outposts.proxy import clients
from outposts.proxy.urls import Places, Url, below, canonical_path, parse_host

MAX_RULES = 256  # lines of one provider; each costs a microsecond of an anonymous request
MAX_RULE = 4096  # characters of one line
_ORIGIN_MARKS = ("://", "http:", "https:")  # an expression with one of these is about a whole URL
MAX_PROGRAM = 1 << 20  # octets of memory for one compiled expression; RE2 refuses larger ones


@dataclass(frozen=True, slots=True)
class PathRule:
    """One compiled line. ``whole``: it has to match everything; ``in_origin``: it has to begin in front of the path."""

    text: str
    pattern: Any
    whole: bool = False
    in_origin: bool = False

    def matches(self, subject: str, origin: int) -> bool:
        """Whether it opens ``subject``, whose path begins at ``origin``."""
        if self.whole:
            return self.pattern.fullmatch(subject) is not None
        match = self.pattern.search(subject)
        return match is not None and (not self.in_origin or int(match.start()) < origin)


class PathRules:
    """All lines of one provider: matched together, in one pass, so that most requests cost one look."""

    __slots__ = ("_set", "rules")

    def __init__(self, rules: Sequence[PathRule]) -> None:
        self.rules = tuple(rules)
        self._set = re2.Set.SearchSet(_options())
        for rule in self.rules:
            self._set.Add(rule.text)
        if self.rules:
            self._set.Compile()

    def find(self, subject: str, origin: int) -> PathRule | None:
        """The first rule that opens ``subject``, whose path begins at ``origin``."""
        matched: list[int] = self._set.Match(subject) or []
        for number in sorted(matched):
            rule = self.rules[number]
            if rule.matches(subject, origin):
                return rule
        return None


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False  # RE2 would write to standard error; callers say what is wrong with a line
    options.max_mem = MAX_PROGRAM
    return options


@dataclass(frozen=True, slots=True)
class GroupRule:
    """Whoever asks for a path below ``path`` (on ``host``, if not "") has to be in one of ``groups``."""

    host: str
    path: str
    groups: frozenset[str]

    def concerns(self, host: str, path: str | None) -> bool:
        """Whether it is about this canonical path; None, a path with two readings, is what every rule is about."""
        return (not self.host or self.host == host) and (path is None or below(path, self.path))


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of one provider. ``whole_url``: paths are matched with scheme and host in front."""

    paths: PathRules = field(default_factory=lambda: PathRules(()))
    whole_url: bool = False
    groups: tuple[GroupRule, ...] = ()
    networks: tuple[clients.Network, ...] = ()

    def opening(self, url: Url) -> PathRule | None:
        """The rule that opens a URL to everybody, or None."""
        if not self.paths.rules:
            return None
        path = canonical_path(url.path)
        if path is None:
            return None
        origin = url.origin if self.whole_url else ""
        return self.paths.find(origin + path, len(origin))

    def missing(self, url: Url, groups: frozenset[str]) -> GroupRule | None:
        """The first rule that a user of these groups does not meet, or None."""
        path = canonical_path(url.path)
        for rule in self.groups:
            if rule.concerns(url.host.name, path) and rule.groups.isdisjoint(groups):
                return rule
        return None


def path_rules(text: str | None, places: Places, *, whole: bool = False) -> tuple[PathRules, list[str]]:
    """The lines of ``skip_path_regex`` compiled, and what is wrong with the others, one sentence each."""
    found: list[PathRule] = []
    wrong: list[str] = []
    names = [name for name in (places.domain, places.home.host.name) if name] if places.domain else []
    for line in (text or "").split("\n"):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        if len(line) > MAX_RULE or len(found) >= MAX_RULES:
            wrong.append(f"unauthenticated path {line[:40]!r}: too long or too many")
            continue
        try:
            pattern = re2.compile(line, _options())
        except (re2.error, UnicodeError) as error:
            wrong.append(f"unauthenticated path {line[:80]!r}: {_reason(error)}")
            continue
        if pattern.search("") is not None:
            wrong.append(f"unauthenticated path {line[:80]!r} opens everything")
        plain = line.replace("\\", "").replace("?", "").lower()
        in_origin = bool(names) and any(name in plain for name in (*names, *_ORIGIN_MARKS))
        found.append(PathRule(line, pattern, whole, in_origin))
    return PathRules(found), wrong


def _reason(error: Exception) -> str:
    detail = error.args[0] if error.args else ""
    return detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)


def group_rules(entries: Iterable[str]) -> tuple[tuple[GroupRule, ...], list[str]]:
    """Entries ``[HOST]/PATH=GROUP|GROUP`` as rules; and what is wrong with the others.

    An entry that cannot be read closes everything: a rule that was meant to protect must not vanish.
    """
    found: list[GroupRule] = []
    wrong: list[str] = []
    for entry in entries:
        place, separator, names = entry.partition("=")
        slash = place.find("/")
        host = parse_host(place[:slash]) if slash > 0 else None
        path = canonical_path(place[slash:]) if slash >= 0 else None
        groups = frozenset(name for name in (item.strip() for item in names.split("|")) if name)
        if not separator or path is None or not groups or (slash > 0 and host is None):
            wrong.append(f"required groups {entry[:80]!r}: not [HOST]/PATH=GROUP|GROUP, nobody may pass")
            found.append(GroupRule("", "/", frozenset()))
        else:
            found.append(GroupRule(host.name if host else "", path, groups))
    return tuple(found), wrong
