"""What the agent must not forget: one small document, written to disk as a whole."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct, field

from tensorguard.protocol.messages import AgentProgress, Desired, LedgerSeen, Position


class Installed(Struct, frozen=True, kw_only=True):
    """A package that this agent has verified: `digest` is the SHA-256 of its manifest.

    `at_rest` sealed: its files are in memory only, and gone with the process.
    """

    name: str
    version: str
    digest: str
    seq: int
    at_rest: Literal["plain", "sealed"] = "plain"


class SeqFloor(Struct, frozen=True, kw_only=True):
    """The highest `seq` of a package name that this agent has run, and which package it was."""

    seq: int
    digest: str


class Renewal(Struct, frozen=True, kw_only=True):
    """A certificate asked for: repeated with this request_id until it is answered.

    `fleet` is where the agent was ordered to; None: it stays.
    """

    request_id: UUID
    csr: str | None = None
    fleet: str | None = None


class AgentState(Struct, kw_only=True):
    """Everything that outlives a restart, beside keys, trust bundle, packages and outbox."""

    time_floor: datetime
    v: Literal[1] = 1
    boot_count: int = 0
    config: Position = Position(epoch=0, revision=0)
    heartbeat_interval_s: int = 30
    desired: Desired | None = None
    stage: AgentProgress | None = None
    reason: str | None = None
    running: Installed | None = None
    last_good: Installed | None = None
    floors: dict[str, SeqFloor] = field(default_factory=dict)
    renewal: Renewal | None = None
    commands: dict[UUID, datetime] = field(default_factory=dict)
    restarting: UUID | None = None
    checkpoint: LedgerSeen | None = None
