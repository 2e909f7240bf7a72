"""Rotating the key that signs checkpoints: for a time both keys sign, so that nobody is cut off."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.checkpoint import VerifierKey, ledger_origin, verify_checkpoint
from tensorguard.ledger.errors import BadCheckpoint
from tensorguard.services.errors import Conflict
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.ledger_events import LedgerKeyCreated, LedgerKeyRetired
from tensorguard.services.evidence.tree_queries import get_latest_checkpoint
from tensorguard.services.platform import make_signing_key
from tensorguard.services.trust.trust import get_latest_bundle, lock_publication
from tensorguard.store.tables import agent_state, agents, platform, signing_keys
from tensorguard.vault.provider import KeyProvider


class RotationUnderWay(Conflict):
    """Two keys sign already."""

    code = "rotation-under-way"
    hint = "End it with 'tensorguard ledger retire-key', then begin another."


class NoRotation(Conflict):
    """Only one key signs."""

    code = "no-rotation"
    hint = "Begin one with 'tensorguard ledger rotate-key'."


class NewKeyUnknown(Conflict):
    """Agents, or the trust bundle, do not know the new key yet."""

    code = "new-key-unknown"
    hint = "Publish a trust bundle with 'tensorguard trust draft', 'sign' and 'publish', and wait."


@dataclass(frozen=True, slots=True)
class LedgerKey:
    """A key that signs checkpoints."""

    kid: str
    verifier: VerifierKey


async def list_ledger_keys(session: AsyncSession) -> list[LedgerKey]:
    """Return the keys that sign at present, the newest first."""
    found = (await session.execute(sa.select(platform))).one()
    origin = ledger_origin(found.trust_domain, found.epoch)
    key = signing_keys.c
    query = (
        sa.select(key.kid, key.public)
        .where(key.purpose == "ledger", key.state == "signing")
        .order_by(key.not_before.desc(), key.kid)
    )
    return [
        LedgerKey(kid, VerifierKey(origin, Ed25519PublicKey.from_public_bytes(public)))
        for kid, public in await session.execute(query)
    ]


async def begin_key_rotation(
    session: AsyncSession, kek: KeyProvider, *, by: Actor, now: datetime
) -> LedgerKey:
    """Make a key that signs beside the present one, once the services have heard of it.

    Raises: RotationUnderWay, VaultError.
    """
    await lock_publication(session)
    if len(await list_ledger_keys(session)) > 1:
        raise RotationUnderWay("two keys sign checkpoints already")
    signer = await make_signing_key(session, kek, "ledger", now)
    (made,) = [one for one in await list_ledger_keys(session) if one.kid == signer.kid]
    event = LedgerKeyCreated(by=by, kid=made.kid, verifier_key=str(made.verifier))
    await ledger.record(session, event, now=now)
    await session.execute(sa.select(sa.func.pg_notify("tg_trust", "ledger-key")))
    return made


async def end_key_rotation(
    session: AsyncSession, *, by: Actor, now: datetime, leave: bool = False
) -> LedgerKey:
    """Retire the older key: the newer one signs alone from then on; return the retired one.

    `leave` gives up the agents that do not know the newer key yet.
    Raises: NoRotation, NewKeyUnknown, NoCheckpoint.
    """
    await lock_publication(session)
    keys = await list_ledger_keys(session)
    if len(keys) < 2:
        raise NoRotation("one key signs checkpoints")
    newest, *older = keys
    bundle = await get_latest_bundle(session)
    if newest.kid not in {key.kid for key in bundle.bundle.keys.ledger}:
        raise NewKeyUnknown(f"trust bundle {bundle.version} does not name the newer key")
    note = (await get_latest_checkpoint(session)).note
    if not _is_signed_by(note, newest.verifier):
        raise NewKeyUnknown(
            "the newer key has not signed the last checkpoint yet", hint="Wait for the hub."
        )
    behind = await _count_behind(session, bundle.version)
    if behind and not leave:
        raise NewKeyUnknown(f"{behind} active agents do not believe bundle {bundle.version} yet")
    retired = older[-1]
    await session.execute(
        sa.update(signing_keys).where(signing_keys.c.kid == retired.kid).values(state="retired")
    )
    event = LedgerKeyRetired(by=by, kid=retired.kid, verifier_key=str(retired.verifier))
    await ledger.record(session, event, now=now)
    await session.execute(sa.select(sa.func.pg_notify("tg_trust", "ledger-key")))
    return retired


def _is_signed_by(note: str, key: VerifierKey) -> bool:
    try:
        verify_checkpoint(note, [key])
    except BadCheckpoint:
        return False
    return True


async def _count_behind(session: AsyncSession, version: int) -> int:
    query = (
        sa.select(sa.func.count())
        .select_from(agents)
        .outerjoin(agent_state, agent_state.c.agent_id == agents.c.id)
        .where(
            agents.c.status == "active",
            sa.func.coalesce(agent_state.c.trust_version, 0) < version,
        )
    )
    return int((await session.execute(query)).scalar_one())
