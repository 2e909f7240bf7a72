"""Private fields of entries: who may read them opens them with the vault; erasing ends that."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.private import open_private
from tensorguard.pki.keys import kid_of, parse_x25519_private
from tensorguard.services.errors import NotFound
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import SYSTEM, Actor
from tensorguard.services.evidence.ledger_events import KeyCreated, SubjectErased
from tensorguard.services.evidence.privacy import open_subject_keys
from tensorguard.services.keys.sealed_rows import open_stored, store_secret
from tensorguard.store.tables import ledger_events, privacy_keys, subject_keys
from tensorguard.vault.provider import KeyProvider

PURPOSE_PRIVACY: Final = "privacy-key"
_LOCK: Final = 7290422


class NothingToErase(NotFound):
    """No entry holds private fields of this subject that could still be read."""

    code = "nothing-to-erase"
    hint = "They may have been erased already: look for ledger.subject-erased."


class PrivateFields(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry holds in private; `fields` is None once it was erased."""

    id: UUID
    fields: dict[str, object] | None


async def ensure_privacy_key(session: AsyncSession, kek: KeyProvider, *, now: datetime) -> bool:
    """Make the key that subjects' keys are sealed to, unless there is one; tell whether it did.

    Raises: VaultError.
    """
    found = sa.select(sa.literal(1)).select_from(privacy_keys).limit(1)
    if (await session.execute(found)).first() is not None:
        return False
    await session.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if (await session.execute(found)).first() is not None:
        return False
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    kid = kid_of(public)
    raw = private.private_bytes_raw()
    secret_id = await store_secret(session, kek, raw, purpose=PURPOSE_PRIVACY, owner=kid, now=now)
    values = {"kid": kid, "public": public, "secret_id": secret_id, "created_at": now}
    await session.execute(sa.insert(privacy_keys).values(values))
    await ledger.record(session, KeyCreated(by=SYSTEM, kid=kid, purpose=PURPOSE_PRIVACY), now=now)
    return True


async def read_private(
    session: AsyncSession, kek: KeyProvider, ids: Sequence[UUID]
) -> list[PrivateFields]:
    """Open the private fields of these entries; those that have none are left out.

    Raises: VaultError; BadPrivate where somebody has tampered.
    """
    query = sa.select(ledger_events.c.id, ledger_events.c.entry).where(ledger_events.c.id.in_(ids))
    documents = {row.id: json.loads(row.entry) for row in await session.execute(query)}
    found = {id: document["private"] for id, document in documents.items() if "private" in document}
    kids = sorted({private["kid"] for private in found.values()})
    keys = await open_subject_keys(session, await _open_privates(session, kek), kids)
    return [
        PrivateFields(
            id=id,
            fields=open_private(keys[private["kid"]], id, private)
            if private["kid"] in keys
            else None,
        )
        for id, private in sorted(found.items())
    ]


async def erase_subject(
    session: AsyncSession, kind: str, id: str, *, by: Actor, now: datetime
) -> int:
    """Destroy every key of a subject's private fields; return how many entries' fields that ends.

    The entries stay as they were hashed. Raises: NothingToErase.
    """
    gone = sa.delete(subject_keys).where(
        subject_keys.c.subject_kind == kind, subject_keys.c.subject_id == id
    )
    kids = sorted((await session.execute(gone.returning(subject_keys.c.kid))).scalars())
    if not kids:
        raise NothingToErase(f"{kind} {id[:80]} has no private fields")
    event = SubjectErased(by=by, subject_id=id, subject_kind=kind, keys=len(kids))
    await ledger.record(session, event, now=now)
    return len(kids)


async def _open_privates(session: AsyncSession, kek: KeyProvider) -> dict[str, X25519PrivateKey]:
    kids = (await session.execute(sa.select(privacy_keys.c.kid))).scalars().all()
    return {
        kid: parse_x25519_private(
            await open_stored(session, kek, purpose=PURPOSE_PRIVACY, owner=kid)
        )
        for kid in kids
    }
