"""Which stage an agent is in: fair, exact and sticky, by a hash that nobody can choose."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from tensorguard.rollouts.errors import StageTooSmall

SALT_BYTES: Final = 16
EVERYONE: Final = b"\xff" * 32
NOBODY: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Stages:
    """The cut-off of each stage, how many of the agents that there were are in it, and where each
    of them is.
    """

    cutoffs: tuple[bytes, ...]
    counts: tuple[int, ...]
    places: Mapping[UUID, int]


def rank(salt: bytes, agent_id: UUID) -> bytes:
    """Return h = SHA-256(salt ‖ agent_id): where the agent stands in this deployment's order."""
    return hashlib.sha256(salt + agent_id.bytes).digest()


def stage_size(percent: int, agents: int) -> int:
    """Return how many of `agents` the stages up to one of `percent` hold, rounded up."""
    return (percent * agents + 99) // 100


def stage_sizes(percents: Sequence[int], agents: int) -> list[int]:
    """Return how many agents each stage adds to those before it."""
    sizes = [stage_size(percent, agents) for percent in percents]
    return [size - before for size, before in zip(sizes, [0, *sizes], strict=False)]


def stage_of(h: bytes, cutoffs: Sequence[bytes]) -> int:
    """Return the first stage whose cut-off is not below `h`; the last one takes everybody."""
    return next(index for index, cutoff in enumerate(cutoffs) if cutoff >= h)


def check_stratified(percent: int, agents: int, values: int, tag: str) -> None:
    """Accept a first stage that can hold an agent for each of the tag's `values`.

    Raises: StageTooSmall.
    """
    size = stage_size(percent, agents)
    if values > size:
        raise StageTooSmall(
            f"the first stage has {size} of {agents} agents, and the tag {tag!r} {values} values"
        )


def assign_stages(
    salt: bytes,
    agent_ids: Iterable[UUID],
    percents: Sequence[int],
    *,
    strata: Mapping[UUID, str] | None = None,
    tag: str = "",
) -> Stages:
    """Return the cut-offs for stages of rising `percents`, the last of them 100.

    `strata` says which value of the tag an agent has: of each value the first by h comes before
    all others, and does not move the cut-offs. Raises: StageTooSmall.
    """
    ordered = sorted(agent_ids, key=lambda agent_id: rank(salt, agent_id))
    first: dict[str, UUID] = {}
    for agent_id in ordered:
        if strata is not None and agent_id in strata:
            first.setdefault(strata[agent_id], agent_id)
    chosen = set(first.values())
    check_stratified(percents[0], len(ordered), len(chosen), tag)
    ordered.sort(key=lambda agent_id: agent_id not in chosen)
    cutoffs: list[bytes] = []
    places: dict[UUID, int] = {}
    before = 0
    sizes = stage_sizes(percents, len(ordered))
    for index, (percent, size) in enumerate(zip(percents, sizes, strict=True)):
        places |= dict.fromkeys(ordered[before : before + size], index)
        before += size
        by_rank = [rank(salt, agent_id) for agent_id in ordered[len(chosen) : before]]
        cutoffs.append(EVERYONE if percent == 100 else max(by_rank, default=NOBODY))
    return Stages(tuple(cutoffs), tuple(sizes), places)
