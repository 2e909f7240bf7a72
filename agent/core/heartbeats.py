"""The heartbeat: how the device is, what it runs, and what it has of what was sent down."""

from datetime import datetime
from uuid import UUID

from agent.core.settings import Telemetry
from agent.core.state import AgentState, Installed
from agent.core.turn import Turn
from tensorguard.protocol.messages import Boot, FleetConfig, Has, Heartbeat, PackageRef, Position


def build(
    state: AgentState,
    sample: Telemetry,
    *,
    running: Installed | None,
    boot_id: UUID,
    seq: int,
    sent_at: datetime,
    agent_version: str,
    desired: Position | None,
    trust_version: int,
    degraded: bool,
) -> Heartbeat:
    """Return the heartbeat; `sent_at` is the system clock, whose skew the platform wants to see."""
    unwell = degraded or state.stage == "failed" or running is not state.running
    return Heartbeat(
        boot_id=boot_id,
        boot_count=state.boot_count,
        seq=seq,
        sent_at=sent_at,
        status="degraded" if unwell else "ok",
        cpu_percent=sample.cpu_percent,
        memory_percent=sample.memory_percent,
        disk_percent=sample.disk_percent,
        temperature_c=sample.temperature_c,
        accelerators=list(sample.accelerators),
        package=None if running is None else _ref(running),
        agent_version=agent_version,
        metrics=sample.metrics or {},
        has=Has(desired=desired, config=state.config.revision, trust=trust_version),
        ledger=state.checkpoint,
    )


def configure(turn: Turn, config: FleetConfig) -> bool:
    """Take over the fleet's configuration if it is newer; tell whether it was."""
    state, old = turn.state, turn.state.config
    if (config.epoch, config.revision) <= (old.epoch, old.revision):
        return False
    state.config = Position(epoch=config.epoch, revision=config.revision)
    state.heartbeat_interval_s = config.heartbeat_interval_s
    turn.persist()
    turn.record(
        "config.changed",
        {"revision": config.revision, "heartbeat_interval_s": config.heartbeat_interval_s},
    )
    return True


def count_on(turn: Turn, boot_id: UUID, known: Boot | None) -> bool:
    """Count this boot above the newest that the platform knows; True where that changed it.

    A device that was restored from an old image counts from there: its heartbeats would be taken
    for old ones.
    """
    if known is None or known.id == boot_id or known.count < turn.state.boot_count:
        return False
    turn.state.boot_count = known.count + 1
    turn.persist()
    return True


def _ref(installed: Installed) -> PackageRef:
    # A manifest may have a longer version than a heartbeat; the digest says which package it is.
    version = installed.version[:64]
    return PackageRef(name=installed.name, version=version, digest=installed.digest)
