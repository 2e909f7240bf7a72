"""Whether a package is meant for this agent, and newer than what it had."""

from collections.abc import Callable, Collection

import msgspec

from tensorguard.tgsp.errors import (
    AgentTooOld,
    SelectorMismatch,
    SeqTooLow,
    WrongFleet,
    WrongHardware,
)
from tensorguard.tgsp.manifest import Manifest
from tensorguard.tgsp.versions import is_older, is_version

Matches = Callable[[str], bool]


class SeqFloor(msgspec.Struct, frozen=True):
    """The highest seq accepted so far under a package name, and the digest it had."""

    seq: int = 0
    digest: bytes | None = None

    @classmethod
    def at_least(cls, min_seq: int) -> "SeqFloor":
        """Give the floor that lets `min_seq` itself pass."""
        return cls(max(min_seq - 1, 0))


class Opener(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent that wants to open a package is; unknown facts match no condition.

    `matches` judges a selector against the agent's tags; `hardware` are words of the format.
    """

    fleet: str | None = None
    matches: Matches | None = None
    hardware: Collection[str] = ()
    agent_version: str = ""


def check_target(manifest: Manifest, opener: Opener) -> None:
    """Accept a package whose every condition this agent meets.

    Raises:
        WrongFleet, SelectorMismatch, WrongHardware, AgentTooOld
    """
    target = manifest.target
    if target.fleets and opener.fleet not in target.fleets:
        raise WrongFleet(
            f"the package is for the fleets {', '.join(map(ascii, target.fleets))}, "
            f"not for {opener.fleet or 'an unnamed one'}"
        )
    if target.selector and not (opener.matches and opener.matches(target.selector)):
        raise SelectorMismatch(f"the selector {target.selector!a} does not match")
    if target.hardware and not set(target.hardware) & set(opener.hardware):
        raise WrongHardware(
            f"the package needs one of {', '.join(target.hardware)}, "
            f"the agent has {', '.join(sorted(opener.hardware)) or 'named none'}"
        )
    if manifest.min_agent and (
        not is_version(opener.agent_version) or is_older(opener.agent_version, manifest.min_agent)
    ):
        raise AgentTooOld(
            f"the package needs agent {manifest.min_agent}, "
            f"this is {opener.agent_version or 'of no known version'}"
        )


def check_seq(manifest: Manifest, digest: bytes, floor: SeqFloor, *, allow_downgrade: bool) -> None:
    """Accept a seq above the floor, or the very package that set it.

    Raises:
        SeqTooLow: below, or equal with another digest, and no downgrade is allowed.
    """
    if manifest.seq > floor.seq or allow_downgrade:
        return
    if manifest.seq == floor.seq and digest == floor.digest:
        return
    raise SeqTooLow(f"{manifest.name} has seq {manifest.seq}, and {floor.seq} was already accepted")
