"""Storing heartbeats: newest state of each agent by upsert, history by COPY, in one transaction."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from hub import arrays
from hub.batch import From
from tensorguard.protocol.messages import Heartbeat

# Three missed heartbeats, but at least two minutes, and an agent is offline.
LATE_AFTER_INTERVALS = 1.5
OFFLINE_AFTER_INTERVALS = 3
OFFLINE_AFTER_AT_LEAST = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class StoredHeartbeat:
    """The newest heartbeat of an agent, and whether it runs another package than before."""

    source: From[Heartbeat]
    package_changed: bool


_COLUMNS = (
    ("boot_id", "uuid"),
    ("boot_count", "int8"),
    ("seq", "int8"),
    ("received_at", "timestamptz"),
    ("sent_at", "timestamptz"),
    ("late_after", "timestamptz"),
    ("offline_after", "timestamptz"),
    ("status", "text"),
    ("cpu_percent", "float4"),
    ("memory_percent", "float4"),
    ("disk_percent", "float4"),
    ("temperature_c", "float4"),
    ("accelerators", "jsonb"),
    ("metrics", "jsonb"),
    ("package_name", "text"),
    ("package_version", "text"),
    ("package_digest", "bytea"),
    ("agent_version", "text"),
    ("desired_epoch", "int8"),
    ("desired_revision", "int8"),
    ("config_revision", "int8"),
    ("trust_version", "int8"),
    ("ledger_size", "int8"),
    ("ledger_root", "bytea"),
)
_LITERALS: Mapping[str, Callable[[Iterable[Any]], str]] = {
    "text": arrays.of_text,
    "jsonb": arrays.of_text,
    "bytea": arrays.of_bytes,
}
# Accepted only if (boot_count, seq) rose; `before` gives back what the row said until now, so that
# every heartbeat of the batch can be compared with it. Sorted by agent: two hubs cannot deadlock.
_UPSERT = f"""
UPDATE agent_state AS state SET {", ".join(f"{name} = new.{name}" for name, _ in _COLUMNS)}
FROM unnest(%s::uuid[], {", ".join(f"%s::{type_}[]" for _, type_ in _COLUMNS)})
     AS new (agent_id, {", ".join(name for name, _ in _COLUMNS)})
JOIN agent_state AS before ON before.agent_id = new.agent_id
WHERE state.agent_id = new.agent_id AND (new.boot_count, new.seq) > (state.boot_count, state.seq)
RETURNING state.agent_id, before.boot_count, before.seq, before.package_digest
"""  # noqa: S608 - names and types are the constants above
_COPY = """
COPY heartbeats (agent_id, received_at, sent_at, boot_count, seq, status, cpu_percent,
    memory_percent, disk_percent, temperature_c, package_digest, accelerators, metrics) FROM STDIN
"""


async def store_heartbeats(
    connection: psycopg.AsyncConnection[Any],
    heartbeats: Sequence[From[Heartbeat]],
    intervals: Mapping[str, timedelta],
) -> list[StoredHeartbeat]:
    """Store what is new; return the newest heartbeat of each agent that was accepted.

    Duplicates and stragglers, and those of agents that do not exist, are dropped. `intervals` says
    how often agents of a fleet are to report.
    """
    newest = _newest(heartbeats)
    if not newest:
        return []
    agents = sorted(newest)
    rows = [_state_row(newest[agent_id], intervals) for agent_id in agents]
    columns = [
        _LITERALS.get(type_, arrays.of_plain)(column)
        for (_, type_), column in zip(_COLUMNS, zip(*rows, strict=True), strict=True)
    ]
    cursor = await connection.execute(_UPSERT, [arrays.of_plain(agents), *columns])
    before = {row[0]: ((row[1], row[2]), row[3]) for row in await cursor.fetchall()}
    await _copy(connection, [one for one in heartbeats if _is_new(one, before)])
    return [
        StoredHeartbeat(newest[agent_id], _digest(newest[agent_id].message) != digest)
        for agent_id, (_, digest) in before.items()
    ]


def _newest(heartbeats: Sequence[From[Heartbeat]]) -> dict[UUID, From[Heartbeat]]:
    newest: dict[UUID, From[Heartbeat]] = {}
    for one in heartbeats:
        known = newest.get(one.agent_id)
        if known is None or _position(one.message) > _position(known.message):
            newest[one.agent_id] = one
    return newest


def _position(heartbeat: Heartbeat) -> tuple[int, int]:
    return (heartbeat.boot_count, heartbeat.seq)


def _is_new(
    one: From[Heartbeat], before: Mapping[UUID, tuple[tuple[int, int], bytes | None]]
) -> bool:
    known = before.get(one.agent_id)
    return known is not None and _position(one.message) > known[0]


def _digest(heartbeat: Heartbeat) -> bytes | None:
    return bytes.fromhex(heartbeat.package.digest) if heartbeat.package else None


def _deadlines(received_at: datetime, interval: timedelta) -> tuple[datetime, datetime]:
    offline = max(OFFLINE_AFTER_INTERVALS * interval, OFFLINE_AFTER_AT_LEAST)
    return received_at + LATE_AFTER_INTERVALS * interval, received_at + offline


def _state_row(one: From[Heartbeat], intervals: Mapping[str, timedelta]) -> tuple[Any, ...]:
    beat, has = one.message, one.message.has
    late, offline = _deadlines(one.received_at, intervals.get(one.fleet, timedelta(seconds=60)))
    return (
        beat.boot_id,
        beat.boot_count,
        beat.seq,
        one.received_at,
        beat.sent_at,
        late,
        offline,
        beat.status,
        beat.cpu_percent,
        beat.memory_percent,
        beat.disk_percent,
        beat.temperature_c,
        _json(beat.accelerators),
        _json(beat.metrics),
        beat.package.name if beat.package else None,
        beat.package.version if beat.package else None,
        _digest(beat),
        beat.agent_version,
        has.desired.epoch if has.desired else None,
        has.desired.revision if has.desired else None,
        has.config,
        has.trust,
        beat.ledger.size if beat.ledger else None,
        bytes.fromhex(beat.ledger.root) if beat.ledger else None,
    )


def _json(value: object) -> str | None:
    return msgspec.json.encode(value).decode() if value else None


async def _copy(
    connection: psycopg.AsyncConnection[Any], heartbeats: Sequence[From[Heartbeat]]
) -> None:
    if not heartbeats:
        return
    async with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        for one in heartbeats:
            beat = one.message
            await copy.write_row(
                (
                    one.agent_id,
                    one.received_at,
                    beat.sent_at,
                    beat.boot_count,
                    beat.seq,
                    beat.status,
                    beat.cpu_percent,
                    beat.memory_percent,
                    beat.disk_percent,
                    beat.temperature_c,
                    _digest(beat),
                    _json(beat.accelerators),
                    _json(beat.metrics),
                )
            )
