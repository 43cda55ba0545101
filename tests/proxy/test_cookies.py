"""``outposts/proxy/cookies.py``: names, tolerant reading, writing that browsers keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outposts.proxy import cookies
from outposts.proxy.cookies import CookieOptions, Reader, SameSite, base_name, delete, without_own, write

NAME = "authentik_proxy_c25d3005"
VALUE = "v" * 43
OTHER = "w" * 43
reader = Reader(NAME)


@pytest.mark.parametrize(
    ("client_id", "name"),
    [("cid-single", "c25d3005"), ("cid-domain", "0846f340"), ("cid-proxy", "115fa190")],
)
def test_names_are_the_references(client_id: str, name: str) -> None:
    """SHA-256 of the client id, eight digits."""
    assert base_name(client_id) == f"authentik_proxy_{name}"
    assert CookieOptions(client_id, prefix="__Host-").name == f"__Host-authentik_proxy_{name}"
    assert CookieOptions(client_id).login_name == f"authentik_proxy_{name}_login"


@pytest.mark.parametrize(
    ("header", "values"),
    [
        (None, ()),
        ("", ()),
        ("a=1", ()),
        (f"{NAME}={VALUE}", (VALUE,)),
        (f"a=1; {NAME}={VALUE}; b=2", (VALUE,)),
        (f"a=1;{NAME}={VALUE};b=2", (VALUE,)),
        (f"a=1 ;  {NAME}={VALUE} ; b", (VALUE,)),
        (f'{NAME}="{VALUE}"', (VALUE,)),
        (f"=; bad pair; {{}}; \x01=\x02; {NAME}={VALUE}", (VALUE,)),
        (f"{NAME}={VALUE}; {NAME}={OTHER}; {NAME}={VALUE}", (VALUE, OTHER)),
        (f"{NAME}=; {NAME}=short; {NAME}={VALUE}", (VALUE,)),
        (f"{NAME}={VALUE}x", ()),
        (f"x{NAME}={VALUE}", ()),
        (f"x-{NAME}={VALUE}; a{NAME}={OTHER}", ()),
        (f"a={NAME}={VALUE}", ()),
        (f"{NAME} ={VALUE}", ()),
        (f"{NAME}_login={VALUE}", ()),
        (f"{NAME.upper()}={VALUE}", ()),
        (f'{NAME}="{VALUE}', ()),
        ("; ".join([f"{NAME}=bad"] * 10 + [f"{NAME}={VALUE}"]), ()),
        (f"a=1, {NAME}={VALUE}", ()),
        (f"{NAME}={VALUE}, a=1", ()),
    ],
)
def test_reading(header: str | None, values: tuple[str, ...]) -> None:
    """P13: whatever stands around it."""
    assert reader.values(header) == values


def test_a_long_header_is_read() -> None:
    """16 KiB of other cookies."""
    assert reader.values("a=" + "x" * 16_384 + f"; {NAME}={VALUE}") == (VALUE,)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (CookieOptions("cid-single"), f"{NAME}=v; Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Lax"),
        (
            CookieOptions("cid-single", "example.com", False),
            f"{NAME}=v; Path=/; Domain=example.com; Max-Age=60; HttpOnly; SameSite=Lax",
        ),
        (
            CookieOptions("cid-single", same_site=SameSite.NONE, partitioned=True, prefix="__Host-"),
            f"__Host-{NAME}=v; Path=/; Max-Age=60; HttpOnly; Secure; SameSite=None; Partitioned",
        ),
    ],
)
def test_writing(options: CookieOptions, text: str) -> None:
    """All attributes."""
    assert write(options, options.name, "v", 60) == text


def test_deleting() -> None:
    """The same name, path and domain, and no life."""
    options = CookieOptions("cid-single", "example.com")
    assert delete(options, options.name) == (
        f"{NAME}=; Path=/; Domain=example.com; Max-Age=0; HttpOnly; Secure; SameSite=Lax"
    )


@pytest.mark.parametrize("value", ["a b", "a;b", "a,b", 'a"b', "a\\b", "a\r\nb", "é", "x" * 4096])
def test_what_browsers_drop_is_not_written(value: str) -> None:
    """Nor anything that ends the header."""
    with pytest.raises(ValueError):
        write(CookieOptions("c"), "n", value, 1)


@pytest.mark.parametrize(
    ("header", "left"),
    [
        ("a=1; b=2", "a=1; b=2"),
        (f"{NAME}=x", ""),
        (f"{NAME}=x; a=1", "a=1"),
        (f"a=1; {NAME}=x", "a=1"),
        (f"a=1;{NAME}=x;{NAME}_login=y;b", "a=1;b"),
        (f"{NAME}", ""),
        (f"{NAME}0=keep; x{NAME}=keep", f"{NAME}0=keep; x{NAME}=keep"),
        (f"a={NAME}=x", f"a={NAME}=x"),
        (f"__Secure-{NAME}=x;; =; a", "; =; a"),
    ],
)
def test_own_cookies_are_taken_out(header: str, left: str) -> None:
    """The rest stays octet for octet."""
    assert without_own(header) == left


PARTS = st.sampled_from([NAME, "=", VALUE, OTHER, ";", " ", ",", '"', "a=1", "\x01", "\xff", "_login", "__Host-", "x"])


@given(st.lists(PARTS, max_size=15).map("".join))
def test_any_header(header: str) -> None:
    """Reading never fails and finds only what is there; what goes on to an application has none of ours."""
    found = reader.values(header)
    assert len(found) <= cookies.MAX_VALUES
    assert all(f"{NAME}={value}" in header or f'{NAME}="{value}"' in header for value in found)
    left = without_own(header)
    assert reader.values(left) == ()
    assert not any(part.strip().startswith(NAME + "=") for part in left.split(";"))
    assert without_own(left) == left
