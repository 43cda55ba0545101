"""One-time codes: RFC vectors, drift, replay, back-off, and cookies' and durations' small rules."""

from __future__ import annotations

import pytest

from core import durations, otp
from core.models import StaticDevice, TOTPDevice
from core.sessions import Cookie

KEY = b"12345678901234567890"


def totp(**fields: object) -> TOTPDevice:
    """A device with the RFC's key."""
    return TOTPDevice(pk=1, user=1, name="t", key=KEY.hex(), **fields)  # type: ignore[arg-type]


def test_rfc_4226_vectors() -> None:
    """RFC 4226 appendix D, the first ten codes."""
    expected = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"]
    assert [otp.hotp(KEY, counter, 6) for counter in range(10)] == expected


@pytest.mark.parametrize(("at", "code"), [(59, "94287082"), (1111111109, "07081804"), (20000000000, "65353130")])
def test_rfc_6238_vectors(at: int, code: str) -> None:
    """RFC 6238 appendix B, SHA-1."""
    accepted, _ = otp.verify([totp(digits=8)], code, at)
    assert accepted is not None


def test_window_replay_and_drift() -> None:
    """One step either way around the learned drift; a step counts once, and no earlier one after it."""
    now = 3000.0
    codes = {offset: otp.hotp(KEY, 100 + offset, 6) for offset in range(-3, 4)}
    for offset in (-2, 2):
        assert otp.verify([totp()], codes[offset], now)[0] is None
    device = totp()
    assert otp.verify([device], codes[1], now)[0] is device
    assert (device.drift, device.last_t) == (1, 101)
    for offset in (1, 0):
        device.throttling_failure_count = 0
        assert otp.verify([device], codes[offset], now)[0] is None
    device.throttling_failure_count = 0
    assert otp.verify([device], codes[2], now)[0] is device
    assert device.drift == 2


@pytest.mark.parametrize("code", ["", "12345", "1234567", "+55224", "７５５２２４", "75522a", " 755224"])
def test_only_digits_of_the_right_number(code: str) -> None:
    """Signs, blanks, other digits and other lengths never match."""
    assert otp.verify([totp()], code, 0.0)[0] is None


def test_back_off_doubles_and_a_refused_try_does_not_count() -> None:
    """1 s, 2 s, 4 s after one, two, three failures; success ends it."""
    device = totp()
    for failures, at in ((1, 0.0), (2, 1.0), (3, 3.0)):
        assert otp.verify([device], "000000", at) == (None, [device])
        assert device.throttling_failure_count == failures
        assert otp.throttled(device, at + 2 ** (failures - 1) - 0.01)
        assert not otp.throttled(device, at + 2 ** (failures - 1))
    right = otp.hotp(KEY, 0, 6)
    assert otp.verify([device], right, 6.9) == (None, [])
    assert otp.verify([device], right, 7.0)[0] is device
    assert device.throttling_failure_count == 0


def test_static_codes_and_other_devices() -> None:
    """A static code works once and is no failure of the TOTP device; a wrong code is one of both."""
    static, timed = StaticDevice(pk=2, user=1, name="s", tokens=["abc12345", "abc12345x"]), totp()
    accepted, changed = otp.verify([timed, static], "abc12345", 0.0)
    assert (accepted, changed, static.tokens) == (static, [static], ["abc12345x"])
    assert timed.throttling_failure_count == 0
    assert otp.verify([static, timed], "abc12345", 0.0)[0] is None
    assert (static.throttling_failure_count, timed.throttling_failure_count) == (1, 1)


def test_durations() -> None:
    """Pairs joined by semicolons, any case, unknown keys skipped; no known key is an error."""
    assert durations.seconds("hours=1;Minutes=30;nonsense=5") == 5400
    assert durations.seconds("seconds=0.5") == 0.5
    for wrong in ("", "5", "nonsense=1", "seconds=x", "seconds=-1", "seconds=nan", "seconds=inf", "hours=1,minutes=2x"):
        with pytest.raises(ValueError):
            durations.seconds(wrong)


def test_cookie_headers() -> None:
    """Over TLS for other sites too, else Lax; deletion dates from 1970; the value is not shown in a repr."""
    cookie = Cookie("a", "secret", 60.0, http_only=True)
    assert cookie.header(secure=False, now=0) == (
        "a=secret; expires=Thu, 01 Jan 1970 00:01:00 GMT; HttpOnly; Max-Age=60; Path=/; SameSite=Lax"
    )
    assert cookie.header(secure=True, now=0).endswith("SameSite=None; Secure")
    assert Cookie("a", "", 0).header(secure=False, now=9) == (
        'a=""; expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/; SameSite=Lax'
    )
    assert "secret" not in repr(cookie)
