"""``outposts/proxy/rules.py``: which lines open which paths, in linear time; groups that a path needs."""

from __future__ import annotations

import pytest

from outposts.proxy.rules import MAX_RULE, MAX_RULES, GroupRule, Rules, group_rules, path_rules
from outposts.proxy.urls import Host, Places, Url, parse_url

SINGLE = Places(Url("https", Host("app.example.com"), "/"))
DOMAIN = Places(Url("https", Host("auth.example.com"), "/"), domain="example.com")


def opens(lines: str, url: str, *, places: Places = SINGLE, whole: bool = False) -> bool:
    """Whether these lines open a URL."""
    found, _ = path_rules(lines, places, whole=whole)
    one = parse_url(url if "://" in url else f"https://app.example.com{url}")
    assert one is not None
    return Rules(found, bool(places.domain)).opening(one) is not None


@pytest.mark.parametrize(
    ("lines", "path", "opened"),
    [
        ("^/public", "/public", True),
        ("^/public", "/publicity", True),
        ("^/public", "/x/public", False),
        ("/public", "/x/public", True),
        ("^/public$", "/public/", False),
        (r"\.(css|js)$", "/a/b.css", True),
        (r"\.(css|js)$", "/a/b.css?x", True),
        (r"\.(css|js)$", "/a?b.css", False),
        ("^/a b$", "/a%20b", True),
        ("^/é", "/%C3%A9", True),
        (r"^/\pL+$", "/%C3%A9", True),
        (r"^/x\z", "/x", True),
        ("(?i)^/PUB", "/public", True),
        ("^/[[:digit:]]+$", "/123", True),
        ("", "/", False),
        ("\n\n", "/", False),
        ("^/a\r\n^/b\r\n", "/b", True),
        ("^/a\n(\n^/b", "/b", True),
        (" ^/a", "/a", False),
        ("^/%2e", "/%2e", False),
    ],
)
def test_lines(lines: str, path: str, opened: bool) -> None:
    """RE2 syntax, unanchored, against the decoded path."""
    assert opens(lines, path) is opened


def test_all_of_the_path_if_asked() -> None:
    """``skip_match: full``."""
    assert opens("/public", "/public", whole=True)
    assert not opens("/public", "/public/x", whole=True)
    assert opens("/public.*", "/public/x", whole=True)


@pytest.mark.parametrize(
    ("line", "url", "opened"),
    [
        (r"^https://health\.example\.com/ping/", "https://health.example.com/ping/x", True),
        (r"^https://health\.example\.com/ping/", "https://HEALTH.example.com:443/ping/", True),
        (r"^https://health\.example\.com/ping/", "https://adm.example.com/?https://health.example.com/ping/", False),
        (r"^https?://[^/]+/static/", "https://any.example.com/static/x", True),
        (r"health\.example\.com/ping", "https://adm.example.com/health.example.com/ping", False),
        (r"HEALTH\.Example\.com/ping", "https://adm.example.com/HEALTH.Example.com/ping", False),
        (r"s?://health", "https://adm.example.com/x:/health", False),
        (r"\.css$", "https://adm.example.com/a.css", True),
        ("/public/", "https://adm.example.com/x/public/", True),
        ("^/public", "https://adm.example.com/public", False),
    ],
)
def test_whole_urls_in_a_domain(line: str, url: str, opened: bool) -> None:
    """A line that names a host has to begin in front of the path."""
    assert opens(line, url, places=DOMAIN) is opened


def test_what_is_wrong_is_said() -> None:
    """One sentence each, and nothing is opened by it."""
    lines = "\n".join(["(", "(?=x)", r"\1", "a" * (MAX_RULE + 1), "a{1000}{1000}", ".*", "\ud800"])
    found, wrong = path_rules(lines, SINGLE)
    assert [rule.text for rule in found.rules] == [".*"]
    assert len(wrong) == 7
    assert "opens everything" in wrong[5]
    many, wrong = path_rules("\n".join(["x"] * (MAX_RULES + 1)), SINGLE)
    assert (len(many.rules), len(wrong)) == (MAX_RULES, 1)
    assert path_rules(None, SINGLE)[0].rules == ()


def test_hostile_expressions_stay_linear() -> None:
    """What takes a backtracking engine longer than the universe lasts is answered at all."""
    assert not opens("^(([a-z])+.)+[A-Z]([a-z])+$\n^/(a*)*b$", "/" + "a" * 3000)


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        ("/admin=admins", GroupRule("", "/admin", frozenset({"admins"}))),
        ("/=a| b |", GroupRule("", "/", frozenset({"a", "b"}))),
        ("Adm.example.com/x=a=b", GroupRule("adm.example.com", "/x", frozenset({"a=b"}))),
    ],
)
def test_group_rules(entry: str, rule: GroupRule) -> None:
    """As operators write them."""
    assert group_rules([entry]) == ((rule,), [])


@pytest.mark.parametrize("entry", ["", "admin=a", "/admin", "/admin=", "/admin=|", "/a/../b=x", "a b/=x", "=x"])
def test_a_broken_group_rule_closes_everything(entry: str) -> None:
    """A rule that was meant to protect must not vanish."""
    found, wrong = group_rules([entry])
    assert len(wrong) == 1
    rules = Rules(groups=found)
    for path in ("/", "/x"):
        assert rules.missing(Url("https", Host("h"), path), frozenset({"x", "a", "admins"})) is not None


def test_all_rules_have_to_be_met() -> None:
    """Of those that match; a path with two readings is everybody's."""
    found, _ = group_rules(["/=staff", "/admin=admins|root", "b.example.com/=b"])
    rules = Rules(groups=found)

    def missing(path: str, *groups: str, host: str = "a.example.com") -> str | None:
        rule = rules.missing(Url("https", Host(host), path), frozenset(groups))
        return None if rule is None else rule.host + rule.path

    assert missing("/x", "staff") is None
    assert missing("/x") == "/"
    assert missing("/admin", "staff") == "/admin"
    assert missing("/admin", "staff", "root") is None
    assert missing("/administration", "staff") is None
    assert missing("/%61dmin", "staff") == "/admin"
    assert missing("/x/../admin", "staff") == "/admin"
    assert missing("/x", "staff", host="b.example.com") == "b.example.com/"
    assert missing("/x", "staff", "b", host="b.example.com") is None
