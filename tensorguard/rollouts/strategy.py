"""How a deployment goes about it: stages and their gates, ramp, timeouts, window."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from tensorguard.rollouts.errors import BadStrategy
from tensorguard.rollouts.windows import AGENT_TIMEZONE, Window, is_timezone

MAX_STAGES: Final = 20
MAX_METRICS: Final = 10
TRUST: Final = "trust"
_DAY_S: Final = 86400
_METRIC = r"^(cpu_percent|memory_percent|disk_percent|temperature_c|trust|metrics\.[!-~]{1,64})$"
Share = Annotated[float, Meta(ge=0, le=1)]


class MetricGate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure in which the stage's agents may not be worse than the rest of the fleet.

    `max_change` is relative to the rest (0.2: a fifth), `max_difference` in the figure's own
    unit; one of them. `min_agents` is how many on either side must have sent it. Where `worse`
    is not said, more is worse, but of trust less.
    """

    metric: Annotated[str, Meta(pattern=_METRIC)]
    worse: Literal["higher", "lower"] | None = None
    max_change: Annotated[float, Meta(ge=0, le=1000)] | None = None
    max_difference: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    min_agents: Annotated[int, Meta(ge=1, le=1000)] = 1

    @property
    def worse_way(self) -> Literal["higher", "lower"]:
        """Which way this figure gets worse."""
        return self.worse or ("lower" if self.metric == TRUST else "higher")


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a stage has to show before the next one begins, and what stops it."""

    min_reported: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    max_failure: Share = 0.05
    min_success: Share = 0.90
    soak_s: Annotated[int, Meta(ge=0, le=14 * _DAY_S)] = 300
    metrics: Annotated[tuple[MetricGate, ...], Meta(max_length=MAX_METRICS)] = ()

    @property
    def soak(self) -> timedelta:
        """For how long everything has to hold."""
        return timedelta(seconds=self.soak_s)


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first `percent` of the agents; a stage includes those before it.

    Without a gate only the last one; to `pause` when it has passed waits for a person.
    """

    percent: Annotated[int, Meta(ge=1, le=100)]
    gate: Gate | None = None
    on_pass: Literal["advance", "pause"] = "advance"  # noqa: S105 - a gate is passed here


class Ramp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many agents a minute may begin: `factor` times as many after so many successes."""

    initial_per_minute: Annotated[int, Meta(ge=1, le=1_000_000)]
    factor: Annotated[float, Meta(ge=1, le=100)] = 2.0
    max_per_minute: Annotated[int, Meta(ge=1, le=1_000_000)]


class Timeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an agent may be at work, in seconds from when it says that it started.

    `begin_s`: how long one that is heard and was told may take to say so. `retries`: how often an
    agent that did not get there may be sent the release again.
    """

    in_progress_s: Annotated[int, Meta(ge=60, le=7 * _DAY_S)] = 1800
    begin_s: Annotated[int, Meta(ge=60, le=7 * _DAY_S)] = 1800
    retries: Annotated[int, Meta(ge=0, le=100)] = 3

    @property
    def in_progress(self) -> timedelta:
        """How long it may take from its start."""
        return timedelta(seconds=self.in_progress_s)

    @property
    def begin(self) -> timedelta:
        """How long it may take to start."""
        return timedelta(seconds=self.begin_s)


class Strategy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stages with rising percentages to 100; without a word a canary of a tenth comes first.

    `allow_downgrade` lets a lower seq be deployed; `stratify` is the key of a tag of which every
    value has to be in the first stage.
    """

    stages: tuple[Stage, ...] = (Stage(percent=10, gate=Gate()), Stage(percent=100))
    on_failure: Literal["pause", "rollback"] = "pause"
    timeouts: Timeouts = Timeouts()
    ramp: Ramp | None = None
    window: Window | None = None
    stratify: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    allow_downgrade: bool = False


AT_ONCE: Final = Strategy(stages=(Stage(percent=100),))
"""Everybody at once, and no gate."""


def parse_strategy(value: Mapping[str, Any]) -> Strategy:
    """Read a strategy as JSON gives it, and fill in what it leaves to us: stages before the last
    have a gate, and each metric a way to get worse.

    Raises: BadStrategy.
    """
    try:
        strategy = msgspec.convert(value, Strategy)
    except msgspec.ValidationError as error:
        raise BadStrategy(f"the strategy is not as it should be: {error}") from None
    _check_stages(strategy)
    if (
        strategy.ramp is not None
        and strategy.ramp.initial_per_minute > strategy.ramp.max_per_minute
    ):
        raise BadStrategy("the ramp begins with more a minute than it may ever have")
    zone = None if strategy.window is None else strategy.window.timezone
    if zone is not None and zone != AGENT_TIMEZONE and not is_timezone(zone):
        raise BadStrategy(
            f"there is no time zone {zone!r}",
            hint="Name it as in 'Europe/Berlin', or 'agent' for that of each agent.",
        )
    *before, last = strategy.stages
    gated = [msgspec.structs.replace(stage, gate=_fill(stage.gate or Gate())) for stage in before]
    return msgspec.structs.replace(strategy, stages=(*gated, last))


def dump_strategy(strategy: Strategy) -> dict[str, Any]:
    """Return the strategy as JSON values, for storing."""
    dumped: dict[str, Any] = msgspec.to_builtins(strategy)
    return dumped


def _fill(gate: Gate) -> Gate:
    replace = msgspec.structs.replace
    metrics = tuple(replace(one, worse=one.worse_way) for one in gate.metrics)
    return replace(gate, metrics=metrics)


def _check_stages(strategy: Strategy) -> None:
    percents = [stage.percent for stage in strategy.stages]
    if not 1 <= len(percents) <= MAX_STAGES:
        raise BadStrategy(f"a strategy has 1 to {MAX_STAGES} stages, not {len(percents)}")
    if percents != sorted(set(percents)) or percents[-1] != 100:
        raise BadStrategy(f"the stages' percentages are {percents}")
    for stage in strategy.stages:
        if stage.gate is not None:
            _check_gate(stage.percent, stage.gate)


def _check_gate(percent: int, gate: Gate) -> None:
    if gate.metrics and percent == 100:
        raise BadStrategy(
            "a stage of 100 % has no rest of the fleet to compare its metrics with",
            hint="Put the metric gate into a stage before it.",
        )
    if gate.metrics and not gate.soak_s:
        raise BadStrategy("metrics are compared over the soak: give the gate a soak_s")
    for one in gate.metrics:
        if (one.max_change is None) == (one.max_difference is None):
            raise BadStrategy(f"the gate on {one.metric} needs max_change or max_difference")
