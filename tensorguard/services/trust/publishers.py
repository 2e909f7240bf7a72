"""Publishers: whose signature makes a package believable, here and on the devices.

The platform verifies uploads against the table; an agent believes its trust bundle. So a change
here reaches the agents with the next bundle, which an operator signs with the root keys
(`services.trust_publishing.publish_next`) in the same transaction.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.deployments.release_errors import (
    BadPublisher,
    PublisherExists,
    PublisherNotFound,
)
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import Actor, PublisherRegistered, PublisherRevoked
from tensorguard.store.packages import Publisher, find_publisher
from tensorguard.store.tables import publishers
from tensorguard.tgsp.keys import compute_kid

MAX_NAMES: Final = 100
_NAME_PATTERN = re.compile(r"\*|[a-z0-9][a-z0-9._-]{0,63}\*?")


async def register_publisher(
    session: AsyncSession,
    *,
    name: str,
    public_pem: str,
    names: Sequence[str],
    not_after: datetime,
    by: Actor,
    now: datetime,
) -> Publisher:
    """Let an Ed25519 key sign packages whose name matches one of `names` (`*` ends a prefix).

    Raises: BadPublisher, PublisherExists.
    """
    key, kid = await check_new_publisher(
        session, name=name, public_pem=public_pem, names=names, not_after=not_after, now=now
    )
    publisher = Publisher(
        kid=kid,
        name=name,
        alg="ed25519",
        public=key.public_bytes_raw(),
        names=list(dict.fromkeys(names)),
        not_after=not_after,
        created_at=now,
        created_by=by.id,
        revoked_at=None,
    )
    await session.execute(
        sa.insert(publishers).values(
            {column.name: getattr(publisher, column.name) for column in publishers.c}
        )
    )
    event = PublisherRegistered(by=by, kid=kid, packages=publisher.names, not_after=not_after)
    await ledger.record(session, event, now=now)
    return publisher


async def check_new_publisher(
    session: AsyncSession,
    *,
    name: str,
    public_pem: str,
    names: Sequence[str],
    not_after: datetime,
    now: datetime,
) -> tuple[Ed25519PublicKey, str]:
    """Return the key and its id if this publisher could be registered.

    Raises: BadPublisher, PublisherExists.
    """
    key = parse_publisher_key(public_pem)
    _check(name, names, not_after, now)
    kid = compute_kid(key).hex()
    if await find_publisher(session, kid) is not None:
        raise PublisherExists(f"the key {kid} is registered already")
    return key, kid


async def revoke_publisher(
    session: AsyncSession, kid: str, *, reason: str, by: Actor, now: datetime
) -> Publisher:
    """Let a key's signature count no more: no upload, no deployment and no grant from now on.

    Revoking once more changes nothing.
    Raises: PublisherNotFound.
    """
    revoked = await session.execute(
        sa.update(publishers)
        .where(publishers.c.kid == kid, publishers.c.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(publishers.c.kid)
    )
    if revoked.first() is not None:
        await ledger.record(session, PublisherRevoked(by=by, kid=kid, reason=reason), now=now)
    return await get_publisher(session, kid)


async def get_publisher(session: AsyncSession, kid: str) -> Publisher:
    """Return the publisher with this key id. Raises: PublisherNotFound."""
    publisher = await find_publisher(session, kid)
    if publisher is None:
        raise PublisherNotFound(f"there is no publisher {kid}")
    return publisher


def parse_publisher_key(public_pem: str) -> Ed25519PublicKey:
    """Read a public key as `tensorguard tgsp keygen publisher` writes it. Raises: BadPublisher."""
    try:
        key = load_pem_public_key(public_pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadPublisher("this is not a public key in PEM form") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadPublisher("this key is not an Ed25519 key")
    return key


def _check(name: str, names: Sequence[str], not_after: datetime, now: datetime) -> None:
    if not 1 <= len(name) <= 200:
        raise BadPublisher("a publisher's name has 1 to 200 characters")
    if not 1 <= len(names) <= MAX_NAMES:
        raise BadPublisher(f"a publisher may sign 1 to {MAX_NAMES} names, '*' stands for all")
    for pattern in names:
        if not _NAME_PATTERN.fullmatch(pattern):
            raise BadPublisher(f"{pattern[:80]!r} is neither a package name nor the start of one")
    if not_after <= now:
        raise BadPublisher(f"the validity has ended already: {not_after.isoformat()}")
