"""Password hashes and the pool that computes them: one path for all outcomes, bounded, never silent."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from core import hashing, passwords
from core.errors import Busy, ValidationFailed
from core.hashing import PasswordHasher
from core.models import User

SALT = bytes(range(passwords.SALT_BYTES))


def test_a_hash_fits_its_password_only() -> None:
    """Spaces, case and other scripts count."""
    stored = passwords.hash_password("e;v€-pw;1 ", SALT)
    assert stored.startswith("$argon2id$")
    assert passwords.verify(stored, "e;v€-pw;1 ")
    for wrong in ("e;v€-pw;1", "E;v€-pw;1 ", "", "\udcff", stored):
        assert not passwords.verify(stored, wrong)
    assert stored != passwords.hash_password("e;v€-pw;1 ", bytes(passwords.SALT_BYTES))


@pytest.mark.parametrize("stored", ["", "!", "$argon2id$broken", "$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA", "plain"])
def test_without_a_usable_hash_nothing_is_right(stored: str) -> None:
    """Not the empty password, not the text of the hash."""
    for password in ("", stored, "x"):
        assert not passwords.verify(stored, password)


def test_an_overlong_password_is_never_right() -> None:
    """Neither stored nor accepted, also when its beginning fits."""
    longest = "x" * passwords.MAX_PASSWORD_BYTES
    stored = passwords.hash_password(longest, SALT)
    assert passwords.verify(stored, longest)
    assert not passwords.verify(stored, longest + "x")
    with pytest.raises(ValueError):
        passwords.hash_password(longest + "x", SALT)


def test_every_comparison_does_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right, wrong, no password and unknown user: exactly one comparison with a hash of the same parameters each."""
    real, seen = passwords._hasher, []

    class Counting:
        """The real hasher, noting what it compares with."""

        def verify(self, stored: str, password: bytes) -> bool:
            """Compare and note the parameters."""
            seen.append(stored.split("$")[1:4])
            return real.verify(stored, password)

    stored = passwords.hash_password("right", SALT)
    monkeypatch.setattr(passwords, "_hasher", Counting())
    answers = [passwords.verify(*pair) for pair in ((stored, "right"), (stored, "wrong"), ("", "right"), ("!", ""))]
    assert answers == [True, False, False, False]
    assert len(seen) == 4
    assert all(parameters == seen[0] for parameters in seen)


async def test_the_pool_checks_and_hashes() -> None:
    """The asynchronous face of the same functions."""
    pool = PasswordHasher(threads=1)
    user = User(username="u", password_hash=await pool.hash("right"))
    assert await pool.check(user, "right")
    assert not await pool.check(user, "wrong")
    assert not await pool.check(User(username="v"), "")
    await pool.spend("anything")  # for a name that nobody has; the answer is of no interest
    with pytest.raises(ValidationFailed):
        await pool.hash("x" * (passwords.MAX_PASSWORD_BYTES + 1))
    pool.close()


async def test_a_full_queue_refuses_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than threads + queue at a time: ``Busy``, which becomes 503; afterwards all is well again."""
    gate = threading.Event()

    def slow(*_: Any) -> bool:
        gate.wait(30)
        return True

    monkeypatch.setattr(hashing.passwords, "verify", slow)
    pool = PasswordHasher(threads=1, queue_limit=2)
    user = User(username="u")
    waiting = [asyncio.ensure_future(pool.check(user, "x")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Busy) as caught:
        await pool.check(user, "x")
    assert caught.value.status == 503
    waiting[2].cancel()
    gate.set()
    assert [await task for task in waiting[:2]] == [True, True]
    assert await pool.check(user, "x")
    pool.close()
