"""Publishers: whose signature makes a package believable, here and on the devices.

The platform goes by the table at once; an agent goes by its trust bundle. So a change here reaches
the agents with the next bundle, which the root keys sign: `publish_next` in the same transaction
where they are at hand, or draft, sign, publish.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.services.deployments.release_errors import (
    BadPublisher,
    PublisherExists,
    PublisherIsRevoked,
    PublisherNotFound,
)
from tensorguard.services.deployments.undeployable import pause_undeployable
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import (
    Actor,
    PublisherChanged,
    PublisherRegistered,
    PublisherRevoked,
)
from tensorguard.services.trust.trust import get_latest_bundle, lock_publication
from tensorguard.store.publishers import Publisher, find_publisher, find_successor
from tensorguard.store.tables import publishers
from tensorguard.tgsp.keys import compute_kid

MAX_NAMES: Final = 100
# An agent that hears of no new bundle asks for it once an hour.
MIN_OVERLAP: Final = timedelta(hours=1)
_NAME_PATTERN = re.compile(r"\*|[a-z0-9][a-z0-9._-]{0,63}\*?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Succession:
    """Whose place a new publisher takes; `predecessor_ends` None: that one ends as it would."""

    kid: str
    predecessor_ends: datetime | None = None


async def register_publisher(
    session: AsyncSession,
    *,
    name: str,
    public_pem: str,
    names: Sequence[str],
    not_after: datetime,
    not_before: datetime | None = None,
    succeeds: Succession | None = None,
    by: Actor,
    now: datetime,
) -> Publisher:
    """Let an Ed25519 key sign packages whose name matches one of `names` (`*` ends a prefix).

    `not_before` None: from now on. A successor begins before the other ends: for a time agents
    believe both. Raises: BadPublisher, PublisherExists, PublisherNotFound, PublisherIsRevoked.
    """
    await lock_publication(session)
    key, kid = await check_new_publisher(
        session,
        name=name,
        public_pem=public_pem,
        names=names,
        not_after=not_after,
        not_before=not_before,
        succeeds=succeeds,
        now=now,
    )
    publisher = Publisher(
        kid=kid,
        name=name,
        alg="ed25519",
        public=key.public_bytes_raw(),
        names=list(dict.fromkeys(names)),
        not_before=not_before or now,
        not_after=not_after,
        created_at=now,
        created_by=by.id,
        succeeds=None if succeeds is None else succeeds.kid,
    )
    await session.execute(
        sa.insert(publishers).values(
            {column.name: getattr(publisher, column.name) for column in publishers.c}
        )
    )
    event = PublisherRegistered(
        by=by,
        kid=kid,
        packages=publisher.names,
        not_after=not_after,
        not_before=not_before,
        succeeds=publisher.succeeds,
    )
    await ledger.record(session, event, now=now)
    if succeeds is not None and succeeds.predecessor_ends is not None:
        await change_publisher(
            session,
            succeeds.kid,
            not_after=succeeds.predecessor_ends,
            reason=f"succeeded by {kid}",
            by=by,
            now=now,
        )
    return publisher


async def check_new_publisher(
    session: AsyncSession,
    *,
    name: str,
    public_pem: str,
    names: Sequence[str],
    not_after: datetime,
    not_before: datetime | None = None,
    succeeds: Succession | None = None,
    now: datetime,
) -> tuple[Ed25519PublicKey, str]:
    """Return the key and its id if this publisher could be registered.

    Raises: BadPublisher, PublisherExists, PublisherNotFound, PublisherIsRevoked.
    """
    key = parse_publisher_key(public_pem)
    if not 1 <= len(name) <= 200:
        raise BadPublisher("a publisher's name has 1 to 200 characters")
    _check_names(names)
    _check_validity(not_before or now, not_after, now)
    kid = compute_kid(key).hex()
    if await find_publisher(session, kid) is not None:
        raise PublisherExists(f"the key {kid} is registered already")
    if succeeds is not None:
        await _check_succession(session, succeeds, not_before or now, not_after, now)
    return key, kid


async def change_publisher(
    session: AsyncSession,
    kid: str,
    *,
    names: Sequence[str] | None = None,
    not_after: datetime | None = None,
    reason: str,
    by: Actor,
    now: datetime,
) -> Publisher:
    """Let a publisher sign other names, or until another time; None leaves it as it is.

    What is being deployed and may not be any more is paused.
    Raises: as `check_change`.
    """
    await lock_publication(session)
    before = await check_change(session, kid, names=names, not_after=not_after, now=now)
    values = {"names": list(dict.fromkeys(names or before.names)), "not_after": not_after}
    if not_after is None:
        values["not_after"] = before.not_after
    if (values["names"], values["not_after"]) == (before.names, before.not_after):
        return before
    await session.execute(
        sa.update(publishers).where(publishers.c.kid == kid).values(told_in=None, **values)
    )
    after = await get_publisher(session, kid)
    event = PublisherChanged(
        by=by,
        kid=kid,
        packages=after.names,
        packages_before=before.names,
        not_after=after.not_after,
        not_after_before=before.not_after,
        reason=reason,
    )
    await ledger.record(session, event, now=now)
    await pause_undeployable(session, by=by, now=now, publisher=kid)
    return after


async def check_change(
    session: AsyncSession,
    kid: str,
    *,
    names: Sequence[str] | None,
    not_after: datetime | None,
    now: datetime,
) -> Publisher:
    """Return the publisher as it is, if it could be changed so.

    Raises: PublisherNotFound, PublisherIsRevoked, BadPublisher.
    """
    publisher = await get_publisher(session, kid)
    if publisher.revoked_at is not None:
        raise PublisherIsRevoked(f"the publisher {kid} is revoked")
    if names is None and not_after is None:
        raise BadPublisher("neither names nor an end of validity are given: nothing would change")
    if names is not None:
        _check_names(names)
    if not_after is not None:
        _check_validity(publisher.not_before, not_after, now)
    return publisher


async def revoke_publisher(
    session: AsyncSession, kid: str, *, reason: str, by: Actor, now: datetime
) -> Publisher:
    """Let a key's signature count no more: no upload, no deployment and no grant from now on.

    Deployments that run are paused in the same transaction. Revoking once more changes nothing.
    Raises: PublisherNotFound.
    """
    await lock_publication(session)
    before = await get_publisher(session, kid)
    if before.revoked_at is not None:
        return before
    newest = await get_latest_bundle(session)
    is_named = any(one.kid == kid for one in newest.bundle.publishers)
    await session.execute(
        sa.update(publishers)
        .where(publishers.c.kid == kid)
        .values(
            revoked_at=now,
            revoked_reason=reason,
            # Where no agent believes it there is nothing that a bundle could take away.
            told_in=None if is_named else newest.version,
        )
    )
    await ledger.record(session, PublisherRevoked(by=by, kid=kid, reason=reason), now=now)
    await pause_undeployable(session, by=by, now=now, publisher=kid)
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


async def _check_succession(
    session: AsyncSession,
    succession: Succession,
    begins: datetime,
    not_after: datetime,
    now: datetime,
) -> None:
    """Raises: PublisherNotFound, PublisherIsRevoked, BadPublisher, PublisherExists."""
    former = await get_publisher(session, succession.kid)
    if former.revoked_at is not None:
        raise PublisherIsRevoked(
            f"the publisher {former.kid} is revoked",
            hint="Register the new key as a publisher of its own.",
        )
    if (known := await find_successor(session, former.kid)) is not None:
        raise PublisherExists(
            f"{known.kid} succeeds {former.kid} already",
            hint="Let another key succeed that one, or revoke it first.",
        )
    ends = succession.predecessor_ends or former.not_after
    if ends > former.not_after:
        raise BadPublisher("a successor cannot make the other publisher last longer")
    if ends < max(begins, now) + MIN_OVERLAP:
        raise BadPublisher(
            f"the other publisher ends at {ends.isoformat()}: for an hour at least both have to be"
            f" valid, and the new one begins at {begins.isoformat()}"
        )
    if not_after <= ends:
        raise BadPublisher(f"a successor lasts longer than the other: {ends.isoformat()}")


def _check_names(names: Sequence[str]) -> None:
    if not 1 <= len(names) <= MAX_NAMES:
        raise BadPublisher(f"a publisher may sign 1 to {MAX_NAMES} names, '*' stands for all")
    for pattern in names:
        if not _NAME_PATTERN.fullmatch(pattern):
            raise BadPublisher(f"{pattern[:80]!r} is neither a package name nor the start of one")


def _check_validity(not_before: datetime, not_after: datetime, now: datetime) -> None:
    if not_after <= now:
        raise BadPublisher(f"the validity has ended already: {not_after.isoformat()}")
    if not_after <= not_before:
        raise BadPublisher(
            f"the validity ends at {not_after.isoformat()}, before it begins at"
            f" {not_before.isoformat()}"
        )
