"""How many agents may begin now, so that network and store are not overrun."""

from datetime import timedelta
from typing import Final

from tensorguard.rollouts.strategy import Ramp

SLICE: Final = timedelta(seconds=10)
_SLICES: Final = 6  # a minute's share is given out in slices of ten seconds, not at once


def rate_per_minute(ramp: Ramp, successes: int) -> int:
    """Return how many may begin in a minute after so many successes; it never falls.

    As many successes as the rate is now make it `factor` times as high.
    """
    rate = float(ramp.initial_per_minute)
    left = successes
    while ramp.factor > 1 and rate < ramp.max_per_minute and left >= rate:
        left -= int(rate)
        rate = min(float(ramp.max_per_minute), max(rate * ramp.factor, rate + 1))
    return int(rate)


def allowance(ramp: Ramp, *, successes: int, last_minute: int, last_slice: int) -> int:
    """Return how many more may begin now.

    `last_minute` and `last_slice` (ten seconds) are how many have begun in those times.
    """
    rate = rate_per_minute(ramp, successes)
    in_slice = -(-rate // _SLICES)
    return max(0, min(rate - last_minute, in_slice - last_slice))
