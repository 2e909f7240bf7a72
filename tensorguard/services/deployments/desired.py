"""Desired documents: what one agent should run, signed, and re-sent until the agent has it."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.protocol import codec, envelope
from tensorguard.protocol.messages import Desired, DesiredPackage, ReleaseRef
from tensorguard.services.deployments.package_urls import format_url
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.tables import agent_desired, agents

LIFETIME: Final = timedelta(hours=24)
REFRESH_BEFORE: Final = timedelta(minutes=5)
CHANNEL: Final = "tg_desired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a desired document says, the same for every agent; package None: keep what runs."""

    deployment_id: UUID | None
    release: ReleaseRef | None
    package_digest: bytes | None
    package_size_bytes: int = 0
    min_seq: int = 0
    allow_downgrade: bool = False


@dataclass(frozen=True, slots=True)
class Recipient:
    """An agent and what the platform says of it."""

    agent_id: UUID
    tags: dict[str, str]


async def assign(
    session: AsyncSession,
    keyring: Keyring,
    content: Content,
    recipients: Sequence[Recipient],
    *,
    owner: UUID,
    now: datetime,
) -> None:
    """Sign a document for each recipient, with a higher revision than its last one.

    The outbox finds it by `sent_at`, and is woken at the commit.
    `owner` is the deployment that the rows are kept under. Call it in batches; recipients by
    rising agent id, so that two writers cannot wait for one another.
    """
    ids = [recipient.agent_id for recipient in recipients]
    rows = await session.execute(
        sa.select(agent_desired.c.agent_id, agent_desired.c.revision)
        .where(agent_desired.c.agent_id.in_(ids))
        .order_by(agent_desired.c.agent_id)
        .with_for_update()
    )
    revisions = {agent_id: revision for agent_id, revision in rows}
    documents = [
        _document(keyring, content, recipient, revisions.get(recipient.agent_id, 0) + 1, now)
        for recipient in recipients
    ]
    envelopes = await asyncio.to_thread(_sign, keyring, documents)
    await session.execute(
        _UPSERT,
        {
            "agent_ids": ids,
            "owner": owner,
            "digest": content.package_digest,
            "epoch": keyring.epoch,
            "revisions": [document.revision for document in documents],
            "documents": [codec.encode(document) for document in documents],
            "envelopes": envelopes,
            "issued_at": now,
            "expires_at": now + LIFETIME,
        },
    )
    await session.execute(sa.select(sa.func.pg_notify(CHANNEL, str(owner))))


_UPSERT = sa.text("""
    INSERT INTO agent_desired (agent_id, deployment_id, package_digest, epoch, revision,
                               document, envelope, issued_at, expires_at)
    SELECT agent_id, CAST(:owner AS uuid), CAST(:digest AS bytea), CAST(:epoch AS bigint),
           revision, document, envelope, CAST(:issued_at AS timestamptz),
           CAST(:expires_at AS timestamptz)
    FROM unnest(CAST(:agent_ids AS uuid[]), CAST(:revisions AS bigint[]),
                CAST(:documents AS bytea[]), CAST(:envelopes AS bytea[]))
         AS signed (agent_id, revision, document, envelope)
    ON CONFLICT (agent_id) DO UPDATE SET
        deployment_id = excluded.deployment_id, package_digest = excluded.package_digest,
        epoch = excluded.epoch, revision = excluded.revision, document = excluded.document,
        envelope = excluded.envelope, issued_at = excluded.issued_at,
        expires_at = excluded.expires_at, sent_at = NULL
    WHERE (agent_desired.epoch, agent_desired.revision) < (excluded.epoch, excluded.revision)
""")


async def documents_for(
    session: AsyncSession, keyring: Keyring, agent_ids: Iterable[UUID], *, now: datetime
) -> dict[UUID, bytes]:
    """Return the envelope of each agent that has one: the stored bytes, signed again near expiry.

    Agents that are not active get none. What another transaction is writing comes as it was.
    """
    wanted = sorted(set(agent_ids))
    if not wanted:
        return {}
    stale_at = now + REFRESH_BEFORE
    rows = (await session.execute(_stored(wanted))).all()
    found = {row.agent_id: bytes(row.envelope) for row in rows}
    stale = [
        row.agent_id for row in rows if row.expires_at <= stale_at or row.epoch < keyring.epoch
    ]
    return found | await refresh(session, keyring, stale, now=now)


def _stored(agent_ids: Sequence[UUID]) -> sa.Select[Any]:
    return (
        sa.select(
            agent_desired.c.agent_id,
            agent_desired.c.envelope,
            agent_desired.c.expires_at,
            agent_desired.c.epoch,
        )
        .join(agents, agents.c.id == agent_desired.c.agent_id)
        .where(agent_desired.c.agent_id.in_(agent_ids), agents.c.status == "active")
    )


async def refresh(
    session: AsyncSession, keyring: Keyring, agent_ids: Sequence[UUID], *, now: datetime
) -> dict[UUID, bytes]:
    """Sign documents again with a new expiry and link, and the same revision: nothing changes.

    Only the epoch rises with the platform's: after a restore agents may have a higher revision.
    """
    if not agent_ids:
        return {}
    locked = await session.execute(
        sa.select(agent_desired.c.agent_id, agent_desired.c.document)
        .where(agent_desired.c.agent_id.in_(agent_ids))
        .order_by(agent_desired.c.agent_id)
        .with_for_update(skip_locked=True)
    )
    documents = [
        _renew(keyring, codec.decode(Desired, bytes(document)), now) for _, document in locked
    ]
    if not documents:
        return {}
    envelopes = await asyncio.to_thread(_sign, keyring, documents)
    ids = [document.agent_id for document in documents]
    await session.execute(
        _REFRESH,
        {
            "agent_ids": ids,
            "documents": [codec.encode(document) for document in documents],
            "envelopes": envelopes,
            "epoch": keyring.epoch,
            "issued_at": now,
            "expires_at": now + LIFETIME,
        },
    )
    return dict(zip(ids, envelopes, strict=True))


_REFRESH = sa.text("""
    UPDATE agent_desired SET document = signed.document, envelope = signed.envelope,
        issued_at = :issued_at, expires_at = :expires_at, epoch = :epoch
    FROM unnest(CAST(:agent_ids AS uuid[]), CAST(:documents AS bytea[]),
                CAST(:envelopes AS bytea[])) AS signed (agent_id, document, envelope)
    WHERE agent_desired.agent_id = signed.agent_id
""")


def _document(
    keyring: Keyring, content: Content, recipient: Recipient, revision: int, now: datetime
) -> Desired:
    package = None
    if content.package_digest is not None:
        package = DesiredPackage(
            digest=content.package_digest.hex(),
            size=content.package_size_bytes,
            url=format_url(
                keyring.url_key, content.package_digest, recipient.agent_id, now + LIFETIME
            ),
        )
    return Desired(
        trust_domain=keyring.trust_domain,
        issued_at=now,
        expires_at=now + LIFETIME,
        agent_id=recipient.agent_id,
        deployment_id=content.deployment_id,
        release=content.release,
        package=package,
        tags=recipient.tags,
        min_seq=content.min_seq,
        allow_downgrade=content.allow_downgrade,
        epoch=keyring.epoch,
        revision=revision,
    )


def _renew(keyring: Keyring, old: Desired, now: datetime) -> Desired:
    package = old.package
    if package is not None:
        digest = bytes.fromhex(package.digest)
        url = format_url(keyring.url_key, digest, old.agent_id, now + LIFETIME)
        package = msgspec.structs.replace(package, url=url)
    return msgspec.structs.replace(
        old, issued_at=now, expires_at=now + LIFETIME, package=package, epoch=keyring.epoch
    )


def _sign(keyring: Keyring, documents: Sequence[Desired]) -> list[bytes]:
    signer = keyring.signer("desired")
    return [envelope.sign(document, [signer]) for document in documents]
