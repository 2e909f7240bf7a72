"""The way to a provider that is elsewhere: repetition, times, and the circuit breaker."""

import threading
from datetime import timedelta

import pytest

from tensorguard.vault.errors import KeyDisabled, Throttled, Unavailable, VaultError
from tensorguard.vault.remote import Limits, Remote

FAST = Limits(connect_s=0.1, call_s=0.2, attempts=3, back_off_s=0.001, breaks_after=6)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Far:
    """Fails as often as it is told."""

    def __init__(self, failures: int = 0, error: type[VaultError] = Throttled) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise OSError("secret request text")
        return "answer"

    def translate(self, error: Exception) -> VaultError:
        return self.error("translated")


def remote_to(far: Far, clock: Clock | None = None, limits: Limits = FAST) -> Remote:
    return Remote("far", far.translate, limits, clock=clock or Clock(), jitter=lambda: 0.5)


async def test_what_passes_is_tried_again_and_counted() -> None:
    far = Far(failures=2)
    remote = remote_to(far)
    assert await remote.call(far) == "answer"
    assert remote.calls == far.calls == 3


async def test_what_does_not_pass_is_told_after_the_last_attempt_without_the_sdk_s_words() -> None:
    far = Far(failures=100)
    with pytest.raises(Throttled) as told:
        await remote_to(far).call(far)
    assert far.calls == 3
    assert told.value.__suppress_context__
    assert "secret" not in str(told.value)


async def test_what_would_not_help_is_not_tried_again() -> None:
    far = Far(failures=100, error=KeyDisabled)
    with pytest.raises(KeyDisabled):
        await remote_to(far).call(far)
    assert far.calls == 1


async def test_after_too_many_failures_the_provider_is_left_alone_and_then_tried_once() -> None:
    far, clock = Far(failures=1000), Clock()
    remote = remote_to(far, clock)
    for _ in range(2):
        with pytest.raises(Throttled):
            await remote.call(far)
    assert far.calls == 6
    with pytest.raises(Unavailable, match="is not called"):
        await remote.call(far)
    assert far.calls == 6
    clock.now += FAST.breaks_for.total_seconds()
    with pytest.raises(Throttled):
        await remote.call(far)
    assert far.calls == 7  # one trial, and closed again
    clock.now += FAST.breaks_for.total_seconds()
    far.failures = 0
    assert await remote.call(far) == "answer"
    assert await remote.call(far) == "answer"


async def test_an_answer_for_good_closes_no_circuit() -> None:
    far = Far(failures=100, error=KeyDisabled)
    remote = remote_to(far)
    for _ in range(20):
        with pytest.raises(KeyDisabled):
            await remote.call(far)


async def test_a_call_that_hangs_ends_in_time() -> None:
    stuck = threading.Event()
    far = Far()
    limits = Limits(connect_s=0.05, call_s=0.05, attempts=1, breaks_for=timedelta(seconds=1))
    try:
        with pytest.raises(Unavailable, match="did not answer"):
            await remote_to(far, limits=limits).call(lambda: stuck.wait(5))
    finally:
        stuck.set()
