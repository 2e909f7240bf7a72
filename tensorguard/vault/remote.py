"""Calls to a provider that is elsewhere: in threads, in time, repeated, not for ever in vain."""

import asyncio
import contextvars
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

import structlog

from tensorguard.vault.errors import Unavailable, VaultError

log = structlog.get_logger(__name__)
T = TypeVar("T")
_THREADS: Final = 8
_RANDOM: Final = random.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long, how often and how stubbornly a provider is called."""

    connect_s: float = 2.0
    call_s: float = 5.0
    attempts: int = 4
    back_off_s: float = 0.1
    most_back_off_s: float = 2.0
    breaks_after: int = 5
    """So many failures in a row, and the provider is left alone for a while."""
    breaks_for: timedelta = timedelta(seconds=10)


class Remote:
    """The way to one key of one provider; every blocking SDK call goes through `call`.

    `translate` turns an SDK's exception into a VaultError. Throttling and absence are tried again
    with full jitter; after too many failures in a row nothing is called until a while has passed,
    and then by one call at a time until one succeeds.
    """

    def __init__(
        self,
        name: str,
        translate: Callable[[Exception], VaultError],
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = _RANDOM.random,
    ) -> None:
        self.limits = limits or Limits()
        self.calls = 0
        """How often the provider was called, repetitions included."""
        self._name = name
        self._translate = translate
        self._clock = clock
        self._jitter = jitter
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"vault-{name}")
        self._room = asyncio.Semaphore(_THREADS)
        self._failures = 0
        self._closed_until = 0.0
        self._trying = False

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread until it succeeds, fails for good or was tried often enough.

        Raises: VaultError.
        """
        for attempt in range(1, self.limits.attempts + 1):
            try:
                return await self._once(work)
            except VaultError as error:
                if not error.retriable or attempt == self.limits.attempts or self._is_broken():
                    raise
                reason = error.code
            most = min(self.limits.back_off_s * 2**attempt, self.limits.most_back_off_s)
            log.info("key_provider_retried", provider=self._name, reason=reason, attempt=attempt)
            await asyncio.sleep(self._jitter() * most)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Wait for nothing; calls under way end by their own timeouts."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _is_broken(self) -> bool:
        return self._clock() < self._closed_until

    async def _once(self, work: Callable[[], T]) -> T:
        self._check_breaker()
        is_trial = self._failures >= self.limits.breaks_after
        self._trying = is_trial
        try:
            result = await self._in_time(work)
        except VaultError as error:
            self._count(error)
            raise
        finally:
            if is_trial:
                self._trying = False
        self._failures = 0
        return result

    async def _in_time(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        try:
            async with asyncio.timeout(self.limits.connect_s + self.limits.call_s), self._room:
                self.calls += 1
                run = partial(context.run, self._translated, work)
                return await loop.run_in_executor(self._threads, run)
        except TimeoutError:
            raise Unavailable(
                f"{self._name} did not answer within"
                f" {self.limits.connect_s + self.limits.call_s:g} s"
            ) from None

    def _translated(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except VaultError:
            raise
        except Exception as error:
            # An SDK's exception may quote the request: it is neither chained nor shown.
            raise self._translate(error) from None

    def _check_breaker(self) -> None:
        if self._is_broken() or self._trying:
            raise Unavailable(
                f"{self._name} has failed {self._failures} times in a row and is not called for"
                f" {max(0.0, self._closed_until - self._clock()):.0f} s",
                hint="It is tried again by itself; look at the provider's state and the network.",
            )

    def _count(self, error: VaultError) -> None:
        if not error.retriable:
            self._failures = 0  # it answers
            return
        self._failures += 1
        if self._failures >= self.limits.breaks_after:
            self._closed_until = self._clock() + self.limits.breaks_for.total_seconds()
            log.warning("key_provider_left_alone", provider=self._name, reason=error.code)
