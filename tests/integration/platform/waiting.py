"""Waiting for what has to become true: looked at again and again until a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.patience import PATIENCE_S

T = TypeVar("T")
EVERY_S = 0.05


def wait_until(look: Callable[[], T | None], what: str, *, within_s: float = PATIENCE_S) -> T:
    """Return what `look` gives as soon as that is true. Raises: AssertionError at the deadline."""
    give_up_at = time.monotonic() + within_s
    while not (seen := look()):
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {within_s:g} s: {what}; seen last: {seen!r}")
        time.sleep(EVERY_S)
    return seen
