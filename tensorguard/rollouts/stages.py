"""Which stage an agent is in: fair, exact and sticky, by a hash that nobody can choose."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

SALT_BYTES = 16
EVERYONE = b"\xff" * 32


@dataclass(frozen=True, slots=True)
class Stages:
    """The cut-off of each stage, and how many of the agents that there were are in it."""

    cutoffs: tuple[bytes, ...]
    counts: tuple[int, ...]


def rank(salt: bytes, agent_id: UUID) -> bytes:
    """Return h = SHA-256(salt ‖ agent_id): where the agent stands in this deployment's order."""
    return hashlib.sha256(salt + agent_id.bytes).digest()


def stage_size(percent: int, agents: int) -> int:
    """Return how many of `agents` the stages up to one of `percent` hold, rounded up."""
    return (percent * agents + 99) // 100


def stage_of(h: bytes, cutoffs: Sequence[bytes]) -> int:
    """Return the first stage whose cut-off is not below `h`; the last one takes everybody."""
    return next(index for index, cutoff in enumerate(cutoffs) if cutoff >= h)


def assign_stages(salt: bytes, agent_ids: Iterable[UUID], percents: Sequence[int]) -> Stages:
    """Return the cut-offs for stages of rising `percents`, the last of them 100."""
    ranks = sorted(rank(salt, agent_id) for agent_id in agent_ids)
    cutoffs: list[bytes] = []
    counts: list[int] = []
    before = 0
    for percent in percents:
        size = stage_size(percent, len(ranks))
        cutoffs.append(EVERYONE if percent == 100 else ranks[size - 1] if size else bytes(32))
        counts.append(size - before)
        before = size
    return Stages(tuple(cutoffs), tuple(counts))
