"""How simulated agents misbehave: per phase of a deployment and per version, by fixed odds.

An agent's lots are drawn from seed, agent, version and phase: the same run goes the same way.
"""

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec
from msgspec import Meta

from agent.core.settings import Telemetry
from simulators.errors import BadBehaviour

Odds = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=7 * 86400)]


class Phase(StrEnum):
    """Where it happens; `running` is after the version has been activated and reported."""

    DOWNLOAD = "download"
    VERIFY = "verify"
    OPEN = "open"
    ACTIVATE = "activate"
    RUNNING = "running"


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may happen in a phase of versions that match `version` (`*` and `?` stand for more).

    `fail`: the phase fails for `reason`. `slow`: it takes `slow_s` longer. `offline`: the agent is
    away for `offline_s`. `crash`: it starts anew, once. `dark`: it is never heard again. `cut`: the
    download ends half-way, once, and what came is kept; only when agents download for real.
    """

    phase: Phase
    version: str = "*"
    fail: Odds = 0.0
    reason: Annotated[str, Meta(max_length=200)] = "simulated failure"
    slow: Odds = 0.0
    slow_s: Seconds = 10.0
    offline: Odds = 0.0
    offline_s: Seconds = 60.0
    crash: Odds = 0.0
    dark: Odds = 0.0
    cut: Odds = 0.0


class Regression(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure of agents that run such a version: times `factor`, plus `add`."""

    metric: Annotated[str, Meta(min_length=1, max_length=64)]
    version: str = "*"
    factor: float = 1.0
    add: float = 0.0


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that agents do wrong; nothing if it is empty."""

    faults: tuple[Fault, ...] = ()
    regressions: tuple[Regression, ...] = ()


@dataclass(frozen=True, slots=True)
class Lot:
    """What happens to one agent in one phase of one version."""

    fail: str | None = None
    slow_s: float = 0.0
    offline_s: float = 0.0
    crash: bool = False
    dark: bool = False
    cut: bool = False


NOTHING = Lot()


def read_behaviour(path: Path) -> Behaviour:
    """Read a behaviour from a JSON file. Raises: BadBehaviour."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Behaviour)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadBehaviour(f"{path}: {error}") from None


def draw(behaviour: Behaviour, phase: Phase, *, version: str, seed: int, agent: int) -> Lot:
    """Draw what happens: the first fault that matches phase and version decides."""
    for fault in behaviour.faults:
        if fault.phase is phase and fnmatchcase(version, fault.version):
            rolls = Random(f"{seed}:{agent}:{version}:{phase}")  # noqa: S311  # not secrets
            fail, slow, offline, crash, dark, cut = (rolls.random() for _ in range(6))
            return Lot(
                fail=fault.reason if fail < fault.fail else None,
                slow_s=fault.slow_s if slow < fault.slow else 0.0,
                offline_s=fault.offline_s if offline < fault.offline else 0.0,
                crash=crash < fault.crash,
                dark=dark < fault.dark,
                cut=cut < fault.cut,
            )
    return NOTHING


def regress(behaviour: Behaviour, sample: Telemetry, version: str | None) -> Telemetry:
    """Return the measurement of an agent that runs this version; percentages stay ones."""
    if version is None:
        return sample
    values = {
        "cpu_percent": sample.cpu_percent,
        "memory_percent": sample.memory_percent,
        "disk_percent": sample.disk_percent,
    }
    metrics = dict(sample.metrics or {})
    for one in behaviour.regressions:
        if not fnmatchcase(version, one.version):
            continue
        where = values if one.metric in values else metrics
        where[one.metric] = where.get(one.metric, 0.0) * one.factor + one.add
    return Telemetry(
        **{name: round(min(100.0, max(0.0, value)), 1) for name, value in values.items()},
        temperature_c=sample.temperature_c,
        accelerators=sample.accelerators,
        metrics=metrics or None,
    )
