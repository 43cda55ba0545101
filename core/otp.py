"""One-time codes: time-based (RFC 6238) with drift learning, static lists, codes that were sent; replay protection and
back-off.

Pure rules: a device record and the time go in, the record is changed in place, and the answer says whether the code
counts. The caller saves the record in the same step, so that two requests cannot use one code.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from core.models import EmailDevice, SMSDevice, StaticDevice, TOTPDevice

Device = TOTPDevice | StaticDevice | EmailDevice | SMSDevice

THROTTLE_FACTOR_S = 1.0  # after n failures in a row the device refuses for factor * 2^(n-1) seconds: 1, 2, 4, …
MAX_THROTTLE_DOUBLINGS = 20  # about 12 days; keeps the power finite

# RFC 4226 appendix D: one past the largest code of each length
_MODULUS = {6: 10**6, 7: 10**7, 8: 10**8}


def hotp(key: bytes, counter: int, digits: int) -> str:
    """The code of RFC 4226 section 5.3 with SHA-1, zero-padded to ``digits`` (6, 7 or 8)."""
    digest = hmac.digest(key, counter.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 0x0F
    value = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(value % _MODULUS[digits]).zfill(digits)


def throttled(device: Device, now: float) -> bool:
    """Whether the device refuses every code for now because of failures."""
    if device.throttling_failure_count <= 0 or device.throttling_failure_timestamp is None:
        return False
    doublings = min(device.throttling_failure_count - 1, MAX_THROTTLE_DOUBLINGS)
    return now - device.throttling_failure_timestamp < float(THROTTLE_FACTOR_S * (1 << doublings))


def _matches_totp(device: TOTPDevice, code: str, now: float) -> bool:
    if len(code) != device.digits or not (code.isascii() and code.isdigit()):
        return False
    key = bytes.fromhex(device.key)
    base = int(now - device.t0) // device.step
    for offset in range(-device.tolerance, device.tolerance + 1):
        drift = device.drift + offset
        step = base + drift
        # a step that was used once, and every earlier one, never counts again (RFC 6238 section 5.2)
        if step <= device.last_t or step < 0:
            continue
        if hmac.compare_digest(hotp(key, step, device.digits), code):
            device.last_t = step
            device.drift = drift
            return True
    return False


def _matches_static(device: StaticDevice, code: str) -> bool:
    found = None
    for token in device.tokens:
        if hmac.compare_digest(token.encode(), code.encode()):
            found = token
    if found is None:
        return False
    device.tokens = [token for token in device.tokens if token != found]
    return True


def _matches_sent(device: EmailDevice | SMSDevice, code: str, now: float) -> bool:
    if not hmac.compare_digest(device.token.encode(), code.encode()) or now >= device.valid_until:
        return False
    device.token = ""  # each code counts once
    return True


def _waits_for_code(device: Device, now: float) -> bool:
    """Whether a wrong code can be a guess at this device: one to which no code was sent cannot be guessed."""
    if isinstance(device, EmailDevice | SMSDevice):
        return bool(device.token) and now < device.valid_until
    return True


def _matches(device: Device, code: str, now: float) -> bool:
    match device:
        case TOTPDevice():
            return _matches_totp(device, code, now)
        case StaticDevice():
            return _matches_static(device, code)
        case _:
            return _matches_sent(device, code, now)


def verify(devices: Iterable[Device], code: str, now: float) -> tuple[Device | None, list[Device]]:
    """Try ``code`` on each device; ``now`` in Unix seconds.

    Returns the device that accepted it or ``None``, and all devices that were changed and must be saved. A failure
    counts against every device that was not refusing already, but only if none accepted: a static code is no failed
    guess at the same person's TOTP device.
    """
    tried: list[Device] = []
    for device in devices:
        if throttled(device, now) or not _waits_for_code(device, now):
            continue
        if _matches(device, code, now):
            device.throttling_failure_count = 0
            device.throttling_failure_timestamp = None
            device.last_used = now
            return device, [device]
        tried.append(device)
    for device in tried:
        device.throttling_failure_count += 1
        device.throttling_failure_timestamp = now
    return None, tried
