"""Hashing passwords without letting strangers fill the memory: few at a time, few in the queue."""

import asyncio
from typing import Final

from argon2 import PasswordHasher

from api.errors import TooManyRequests
from api.turns import Turns
from tensorguard.services.people.passwords import (
    HASHER,
    generate_password,
    hash_password,
    verify_password,
)

AT_A_TIME: Final = 2  # each takes 64 MiB and a core for 50 ms
MAX_WAITING: Final = 16


class Passwords:
    """Hashes and verifies in threads."""

    def __init__(self, hasher: PasswordHasher = HASHER) -> None:
        self._hasher = hasher
        self._turns = Turns(AT_A_TIME, most_waiting=MAX_WAITING, full=_full)
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """Return the hash to store.

        Raises: TooManyRequests.
        """
        async with self._turns.one():
            return await asyncio.to_thread(hash_password, password, self._hasher)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Tell whether the password is the stored one; takes as long where there is none.

        Raises: TooManyRequests.
        """
        async with self._turns.one():
            if self._nobody is None:
                self._nobody = await asyncio.to_thread(
                    hash_password, generate_password(), self._hasher
                )
            is_right = await asyncio.to_thread(
                verify_password, stored or self._nobody, password, self._hasher
            )
        return is_right and stored is not None


def _full() -> TooManyRequests:
    return TooManyRequests("too many people sign in at this moment", retry_after_s=2)
