"""Fleets, and the signed configuration that every agent of a fleet follows."""

import re
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.protocol import envelope
from tensorguard.protocol.messages import FleetConfig
from tensorguard.protocol.topics import FLEET_PATTERN
from tensorguard.services.errors import FleetExists, FleetNotFound, Invalid
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, FleetConfigChanged, FleetCreated
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store import tables

HEARTBEAT_INTERVAL_S: Final = 10
CONFIG_LIFETIME: Final = timedelta(days=7)
# Signed anew while the old one is still good for whoever has just been sent it.
RESIGN_BEFORE: Final = timedelta(days=1)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NAME_LIMIT: Final = 200


async def create_fleet(
    session: AsyncSession,
    keyring: Keyring,
    *,
    slug: str,
    name: str,
    by: Actor,
    now: datetime,
    heartbeat_interval_s: int = HEARTBEAT_INTERVAL_S,
) -> sa.Row[Any]:
    """Make a fleet with its first signed configuration, and return its row.

    Raises: Invalid, FleetExists.
    """
    if re.fullmatch(FLEET_PATTERN, slug) is None:
        raise Invalid(
            f"{slug[:80]!r} is not a fleet slug",
            hint="Use 1 to 40 lower-case letters, digits and inner dashes, such as hospital-a.",
        )
    if not name.strip() or len(name) > _NAME_LIMIT or _CONTROL.search(name):
        raise Invalid("the fleet's name has to have 1 to 200 characters, none of them control")
    table = tables.fleets
    inserted = await session.execute(
        insert(table)
        .values(slug=slug, name=name.strip(), created_at=now, created_by=by.id)
        .on_conflict_do_nothing()
        .returning(*table.c)
    )
    row = inserted.one_or_none()
    if row is None:
        raise FleetExists(f"there is a fleet {slug!r} already")
    config = _sign(keyring, slug, 1, heartbeat_interval_s, now)
    await session.execute(sa.insert(tables.fleet_configs).values(fleet=slug, **config))
    await ledger.record(session, FleetCreated(by=by, fleet=slug), now=now)
    return row


async def set_config(
    session: AsyncSession,
    keyring: Keyring,
    fleet: str,
    *,
    heartbeat_interval_s: int,
    by: Actor,
    now: datetime,
) -> int:
    """Change the fleet's configuration, and return its revision, which rose.

    Raises: FleetNotFound, Invalid.
    """
    row = await _get_config(session, fleet, lock=True)
    if row.heartbeat_interval_s == heartbeat_interval_s:
        return int(row.revision)
    revision = row.revision + 1
    config = _sign(keyring, fleet, revision, heartbeat_interval_s, now)
    await _replace_config(session, fleet, config)
    await ledger.record(
        session,
        FleetConfigChanged(
            by=by,
            fleet=fleet,
            revision=revision,
            before={"heartbeat_interval_s": row.heartbeat_interval_s},
            after={"heartbeat_interval_s": heartbeat_interval_s},
        ),
        now=now,
    )
    await session.execute(sa.select(sa.func.pg_notify("tg_configs", fleet)))
    return int(revision)


async def get_config_envelope(
    session: AsyncSession, keyring: Keyring, fleet: str, *, now: datetime
) -> bytes:
    """The fleet's signed configuration, with at least a day to live: signed anew where it has less.

    Raises: FleetNotFound.
    """
    row = await _get_config(session, fleet)
    if row.expires_at - now > RESIGN_BEFORE and row.epoch == keyring.epoch:
        return bytes(row.envelope)
    row = await _get_config(session, fleet, lock=True)
    if row.expires_at - now <= RESIGN_BEFORE or row.epoch != keyring.epoch:
        config = _sign(keyring, fleet, row.revision, row.heartbeat_interval_s, now)
        await _replace_config(session, fleet, config)
        return bytes(config["envelope"])
    return bytes(row.envelope)  # another process was faster


async def _get_config(session: AsyncSession, fleet: str, *, lock: bool = False) -> sa.Row[Any]:
    table = tables.fleet_configs
    query = sa.select(table).where(table.c.fleet == fleet)
    row = (await session.execute(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise FleetNotFound(f"there is no fleet {fleet[:80]!r}")
    return row


async def _replace_config(session: AsyncSession, fleet: str, config: dict[str, Any]) -> None:
    table = tables.fleet_configs
    await session.execute(sa.update(table).where(table.c.fleet == fleet).values(**config))


def _sign(
    keyring: Keyring, fleet: str, revision: int, heartbeat_interval_s: int, now: datetime
) -> dict[str, Any]:
    if not 1 <= heartbeat_interval_s <= 3600:
        raise Invalid("a heartbeat interval is 1 to 3600 seconds")
    expires_at = now + CONFIG_LIFETIME
    message = FleetConfig(
        trust_domain=keyring.trust_domain,
        issued_at=now,
        expires_at=expires_at,
        fleet=fleet,
        epoch=keyring.epoch,
        revision=revision,
        heartbeat_interval_s=heartbeat_interval_s,
    )
    return {
        "epoch": keyring.epoch,
        "revision": revision,
        "heartbeat_interval_s": heartbeat_interval_s,
        "envelope": envelope.sign(message, [keyring.config_signer]),
        "issued_at": now,
        "expires_at": expires_at,
    }
