"""How a deployment goes about it: stages and timeouts."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from tensorguard.rollouts.errors import BadStrategy

MAX_STAGES: Final = 20


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first `percent` of the agents; a stage includes those before it."""

    percent: Annotated[int, Meta(ge=1, le=100)]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an agent may be at work, in seconds from when it says that it started."""

    in_progress_s: Annotated[int, Meta(ge=60, le=7 * 86400)] = 1800

    @property
    def in_progress(self) -> timedelta:
        """The same as a duration."""
        return timedelta(seconds=self.in_progress_s)


class Strategy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stages with rising percentages to 100; `allow_downgrade` lets a lower seq be deployed."""

    stages: tuple[Stage, ...] = (Stage(percent=100),)
    timeouts: Timeouts = Timeouts()
    allow_downgrade: bool = False


def parse_strategy(value: Mapping[str, Any]) -> Strategy:
    """Read a strategy as JSON gives it.

    Raises: BadStrategy.
    """
    try:
        strategy = msgspec.convert(value, Strategy)
    except msgspec.ValidationError as error:
        raise BadStrategy(f"the strategy is not as it should be: {error}") from None
    percents = [stage.percent for stage in strategy.stages]
    if not 1 <= len(percents) <= MAX_STAGES:
        raise BadStrategy(f"a strategy has 1 to {MAX_STAGES} stages, not {len(percents)}")
    if percents != sorted(set(percents)) or percents[-1] != 100:
        raise BadStrategy(f"the stages' percentages are {percents}")
    if len(percents) > 1:
        raise BadStrategy(
            "several stages need gates, which this version does not evaluate yet",
            hint="Leave the strategy out: one stage of 100 %.",
        )
    return strategy


def dump_strategy(strategy: Strategy) -> dict[str, Any]:
    """Return the strategy as JSON values, for storing."""
    dumped: dict[str, Any] = msgspec.to_builtins(strategy)
    return dumped
