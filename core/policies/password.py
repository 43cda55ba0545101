"""Password policy: static rules, leaked passwords, and how easily it is guessed (flows.md §6.2).

The three groups run in this order, each only if it is switched on; the first that fails decides. Have I Been Pwned is
asked with five characters of the password's SHA-1 only (k-anonymity), at a configurable address.
"""

from __future__ import annotations

import hashlib
import string
from typing import Any

import httpx
from zxcvbn import zxcvbn

from core.errors import PolicyFailed, ValidationFailed
from core.policies.base import PolicyOptions, PolicyRequest, PolicyResult, PolicyType
from core.policies.unique_password import NOT_SET, wanted_password

HIBP_URL = "https://api.pwnedpasswords.com/range"
HIBP_TIMEOUT_S = 5.0
ZXCVBN_LENGTH = 72  # characters that are looked at; the time grows with the square of the length
SYMBOLS = "!\\\"#$%&'()*+,-./:;<=>?@[]^_`{|}~ "
LEAKED = "Password exists on {count} online lists."
WEAK = "Password is too weak."


class PasswordPolicyOptions(PolicyOptions):
    """Names and defaults are the API's. ``hibp_url`` is ours: another server with the same interface."""

    password_field: str = "password"  # noqa: S105 - the name of a field
    check_static_rules: bool = True
    check_have_i_been_pwned: bool = False
    check_zxcvbn: bool = False
    amount_digits: int = 0
    amount_uppercase: int = 0
    amount_lowercase: int = 0
    amount_symbols: int = 0
    length_min: int = 0
    symbol_charset: str = SYMBOLS
    error_message: str = ""
    hibp_allowed_count: int = 0
    hibp_url: str = HIBP_URL
    zxcvbn_score_threshold: int = 2


class PasswordPolicy(PolicyType):
    """Passes for a password that is good enough."""

    model = "authentik_policies_password.passwordpolicy"
    Options = PasswordPolicyOptions
    component = "ak-policy-password-form"
    verbose_name = "Password Policy"

    @classmethod
    def read_options(cls, options: dict[str, Any]) -> PolicyOptions:
        """Typed options; no amount is negative, and the score is one that exists."""
        found = super().read_options(options)
        assert isinstance(found, PasswordPolicyOptions)
        for name in ("amount_digits", "amount_uppercase", "amount_lowercase", "amount_symbols", "length_min",
                     "hibp_allowed_count"):  # fmt: skip
            if getattr(found, name) < 0:
                raise ValidationFailed({name: ["may not be negative"]})
        if not 0 <= found.zxcvbn_score_threshold <= 4:
            raise ValidationFailed({"zxcvbn_score_threshold": ["must be from 0 to 4"]})
        if httpx.URL(found.hibp_url).scheme not in ("http", "https"):
            raise ValidationFailed({"hibp_url": ["must be an http or https address"]})
        return found

    def passes(self, request: PolicyRequest) -> PolicyResult:
        """The first group that fails decides."""
        value = wanted_password(request, self.options.password_field)
        if value is None:
            return PolicyResult(False, (NOT_SET,))
        options = self.options
        for wanted, check in (
            (options.check_static_rules, self._static),
            (options.check_have_i_been_pwned, self._leaked),
            (options.check_zxcvbn, self._guessed),
        ):
            result = check(value, request) if wanted else None
            if result is not None:
                return result
        return PolicyResult(True)

    def _static(self, value: str, request: PolicyRequest) -> PolicyResult | None:
        options = self.options
        counts = (
            (len(value), options.length_min),
            (_count(value, string.digits), options.amount_digits),
            (_count(value, string.ascii_uppercase), options.amount_uppercase),
            (_count(value, string.ascii_lowercase), options.amount_lowercase),
            (_count(value, options.symbol_charset), options.amount_symbols),
        )
        if all(there >= wanted for there, wanted in counts):
            return None
        return PolicyResult(False, (options.error_message or "Password does not meet the rules.",))

    def _leaked(self, value: str, request: PolicyRequest) -> PolicyResult | None:
        digest = hashlib.sha1(value.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest().upper()
        head, tail = digest[:5], digest[5:]
        try:
            answer = httpx.get(f"{self.options.hibp_url.rstrip('/')}/{head}", timeout=HIBP_TIMEOUT_S)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            # the text would name the address with part of the hash
            raise PolicyFailed(f"the list of leaked passwords cannot be asked: {type(error).__name__}") from None
        count = 0
        for line in answer.text.splitlines():
            known, _, number = line.strip().partition(":")
            if known == tail and number.isascii() and number.isdigit():
                count = int(number[:12])
        if count <= self.options.hibp_allowed_count:
            return None
        return PolicyResult(False, (LEAKED.format(count=count),), count)

    def _guessed(self, value: str, request: PolicyRequest) -> PolicyResult | None:
        user, brand = request.user, request.brand
        words = [word for word in (user.username, user.name, user.email, *user.name.split()) if word]
        if brand is not None:
            words.append(brand.branding_title)
        found = zxcvbn(value[:ZXCVBN_LENGTH], user_inputs=words)
        if found["score"] > self.options.zxcvbn_score_threshold:
            return None
        feedback = found["feedback"]
        texts = [WEAK, *([feedback["warning"]] if feedback["warning"] else []), *feedback["suggestions"]]
        return PolicyResult(False, tuple(map(str, texts)), found["score"])


def _count(value: str, letters: str) -> int:
    """How many characters of ``value`` are among ``letters``."""
    known = frozenset(letters)
    return sum(letter in known for letter in value)
