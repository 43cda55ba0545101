"""Pages: HTML for people, JSON for programs, nothing active in either."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from outposts.proxy import pages
from outposts.proxy.exchange import STATUS, Cause
from outposts.proxy.pages import Link, Page, octets, wants_html
from outposts.proxy.state import StateProblem

EVIL = "<script>alert(1)</script>\"'&"
ALL: list[Page] = [
    *(
        pages.upstream_failed(STATUS[cause], cause, as_html=html, detail=EVIL)
        for cause in Cause
        for html in (True, False)
    ),
    *(
        pages.login_failed(400, problem, details=[("e", EVIL)], retry_url=EVIL, home_url="/")
        for problem in StateProblem
    ),
    pages.login_failed(403, "core_error", as_html=False, details=[("error", EVIL)]),
    pages.unauthorized(EVIL, challenge="Bearer"),
    pages.unauthorized(EVIL, as_html=True),
    pages.forbidden(EVIL, sign_out_url=EVIL),
    pages.unavailable(EVIL),
    pages.throttled(7),
    pages.bad_request(EVIL),
    pages.not_found(),
    pages.signed_out(application=EVIL, again_url=EVIL, everywhere_url=EVIL),
    pages.confirm_sign_out(EVIL, application=EVIL, form_origins=["https://ak.example.org"]),
    pages.no_provider(EVIL),
    pages.configuration_error(),
    pages.unauthorized_check(),
]


@pytest.mark.parametrize("page", ALL, ids=range(len(ALL)))
def test_no_page_is_active_or_kept(page: Page) -> None:
    headers = dict(page.headers)
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    if headers["Content-Type"].startswith("text/html"):
        text = page.body.decode()
        assert EVIL not in text and "<script" not in text
        assert not re.search(r"<[^>]*\s(on\w+|style|src)=", text)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "script-src" not in policy
        style = re.search(r"<style>(.*?)</style>", text)
        assert style is not None
        assert f"'sha256-{base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()}'" in policy
    elif headers["Content-Type"] == "application/json":
        assert isinstance(json.loads(page.body), dict)
    else:
        assert EVIL not in page.body.decode()


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause not in (Cause.CLIENT_GONE, Cause.FAILED)])
def test_every_cause_has_its_own_words(cause: Cause) -> None:
    page = pages.upstream_failed(STATUS[cause], cause, as_html=False)
    answer = json.loads(page.body)
    assert answer["error"] == cause and answer["detail"] != "The request could not be handled."
    assert page.status == STATUS[cause] and "reason" not in answer


@pytest.mark.parametrize("problem", StateProblem)
def test_every_problem_of_a_login_has_words_and_a_way_on(problem: StateProblem) -> None:
    page = pages.login_failed(
        400, problem, retry_url="https://app.example.com/start", home_url="https://app.example.com/"
    )
    assert problem in pages._LOGIN
    assert b"https://app.example.com/start" in page.body and b"Log in again" in page.body


@pytest.mark.parametrize(
    ("accept", "mode", "html"),
    [
        ("", "", True),
        ("*/*", "", True),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "navigate", True),
        ("application/json", "", False),
        ("application/problem+json, */*", "cors", False),
        ("*/*", "cors", False),
        ("TEXT/HTML", "cors", True),
        ("image/avif,*/*", "no-cors", False),
    ],
)
def test_who_gets_html(accept: str, mode: str, html: bool) -> None:
    assert wants_html(accept, mode) is html


def test_a_form_may_lead_to_where_it_redirects_and_nowhere_else() -> None:
    page = pages.confirm_sign_out("/sign_out", form_origins=["https://ak.example.org"])
    assert "form-action 'self' https://ak.example.org;" in dict(page.headers)["Content-Security-Policy"]
    assert "form-action 'none'" in dict(pages.not_found().headers)["Content-Security-Policy"]
    assert b'method="post" action="/sign_out"' in page.body


def test_unauthorized_says_where_to_log_in() -> None:
    page = pages.unauthorized("https://app.example.com/start", challenge='Basic realm="x"')
    assert json.loads(page.body)["login_url"] == "https://app.example.com/start"
    assert dict(page.headers)["WWW-Authenticate"] == 'Basic realm="x"'


def test_the_reference_s_words() -> None:
    assert json.loads(pages.no_provider("h").body)["Message"] == "no app for hostname"
    assert pages.configuration_error().body == b"configuration error\n"
    assert pages.unauthorized_check().body == b"unauthorized request\n"


def test_a_page_as_octets() -> None:
    page = pages.page(503, "x", "T", "Text", as_html=False, retry_s=3, links=[Link("a", "b")])
    whole = octets(page, [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")])
    head, _, body = whole.partition(b"\r\n\r\n")
    assert body == page.body and head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head and b"Connection" not in head
    assert head.endswith(b"\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2") and b"\r\nRetry-After: 3\r\n" in head
    assert octets(page, head_only=True).endswith(b"\r\n\r\n")
    assert b"\r\nConnection: close" in octets(page, keep_alive=False)
    assert b"\r\nConnection: keep-alive" in octets(page, minor=0)
    assert octets(Page(499, (), b"")).startswith(b"HTTP/1.1 499 Unknown\r\n")
