"""The platform's CAs: which of them issues, which are believed, who holds their certificates."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.identity import subject_key_id
from tensorguard.pki.issuer import CA_LIFETIME, CertificateAuthority
from tensorguard.services.errors import PlatformNotInitialised
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import KeyCreated
from tensorguard.services.keys.sealed_rows import store_secret
from tensorguard.store import tables
from tensorguard.vault.provider import KeyProvider

PURPOSE_CA: Final = "ca-key"
State = Literal["trusted", "issuing", "retired"]


@dataclass(frozen=True, slots=True)
class Authority:
    """One CA; `key_id` is what its certificates name as their authority."""

    spki_sha256: bytes
    key_id: bytes
    certificate: str
    state: State
    not_before: datetime
    not_after: datetime

    @property
    def pin(self) -> str:
        """The SHA-256 of its SPKI as join strings and people write it."""
        return self.spki_sha256.hex()


@dataclass(frozen=True, slots=True)
class Holder:
    """An active agent that holds a certificate of a CA, good until `not_after`."""

    agent_id: UUID
    name: str
    fleet: str
    presence: str
    not_after: datetime

    @property
    def is_online(self) -> bool:
        """Whether it can be expected to renew soon."""
        return self.presence in ("online", "late")


async def make_authority(
    session: AsyncSession,
    kek: KeyProvider,
    trust_domain: str,
    *,
    state: State,
    by: Actor,
    now: datetime,
    after: datetime | None = None,
) -> Authority:
    """Make a CA and seal its key; its notBefore is later than `after`, so that it is the newest.

    Raises: VaultError, BadIdentity.
    """
    made = CertificateAuthority.create(trust_domain, now, CA_LIFETIME)
    if after is not None and made.certificate.not_valid_before_utc <= after:
        later = after - made.certificate.not_valid_before_utc + timedelta(seconds=1)
        made = CertificateAuthority.create(trust_domain, now + later, CA_LIFETIME)
    pin = made.spki_sha256
    secret_id = await store_secret(
        session, kek, made.private_key_der(), purpose=PURPOSE_CA, owner=pin, now=now
    )
    authority = Authority(
        spki_sha256=bytes.fromhex(pin),
        key_id=subject_key_id(made.certificate),
        certificate=made.certificate_pem,
        state=state,
        not_before=made.certificate.not_valid_before_utc,
        not_after=made.certificate.not_valid_after_utc,
    )
    await session.execute(
        sa.insert(tables.ca_certificates).values(
            spki_sha256=authority.spki_sha256,
            subject_key_id=authority.key_id,
            certificate=authority.certificate,
            secret_id=secret_id,
            not_before=authority.not_before,
            not_after=authority.not_after,
            state=state,
        )
    )
    await ledger.record(session, KeyCreated(by=by, kid=pin, purpose=PURPOSE_CA), now=now)
    return authority


async def list_authorities(session: AsyncSession, *, lock: bool = False) -> list[Authority]:
    """Return every CA there ever was, the oldest first."""
    table = tables.ca_certificates
    query = sa.select(table).order_by(table.c.not_before, table.c.subject_key_id)
    return [
        Authority(
            spki_sha256=bytes(row.spki_sha256),
            key_id=bytes(row.subject_key_id),
            certificate=row.certificate,
            state=row.state,
            not_before=row.not_before,
            not_after=row.not_after,
        )
        for row in await session.execute(query.with_for_update() if lock else query)
    ]


async def get_issuing(session: AsyncSession) -> Authority:
    """Return the CA that issues. Raises: PlatformNotInitialised."""
    issuing = [one for one in await list_authorities(session) if one.state == "issuing"]
    if not issuing:
        raise PlatformNotInitialised("no CA issues certificates")
    return issuing[-1]


# Held is what can still be used: not expired, not superseded, and nothing newer has connected.
_HELD = """
    FROM certificates c
    JOIN agents a ON a.id = c.agent_id AND a.status = 'active'
    WHERE c.not_after > :now AND c.superseded_at IS NULL
      AND NOT EXISTS (
        SELECT FROM certificates n
        WHERE n.agent_id = c.agent_id AND n.issued_at > c.issued_at
          AND n.first_connected_at IS NOT NULL)
"""
_COUNT_HOLDERS = sa.text(
    f"SELECT c.authority_key_id, count(DISTINCT c.agent_id) {_HELD} GROUP BY 1"
)
_LIST_HOLDERS = sa.text(
    f"""
    SELECT held.*, coalesce(s.presence, 'never') AS presence FROM (
        SELECT a.id, a.name, a.fleet, max(c.not_after) AS not_after
        {_HELD} AND c.authority_key_id = ANY(:keys) GROUP BY 1, 2, 3
    ) AS held LEFT JOIN agent_status s ON s.agent_id = held.id
    ORDER BY held.fleet, held.name, held.id
    """  # noqa: S608  constants
)


async def count_holders(session: AsyncSession, *, now: datetime) -> Mapping[bytes, int]:
    """Return for each CA's key id how many active agents hold a certificate of it."""
    rows = await session.execute(_COUNT_HOLDERS, {"now": now})
    return {bytes(key_id): count for key_id, count in rows}


async def list_holders(
    session: AsyncSession, authorities: Collection[Authority], *, now: datetime
) -> list[Holder]:
    """Return the active agents that hold a certificate of one of these CAs, by fleet and name."""
    keys = [one.key_id for one in authorities]
    rows = await session.execute(_LIST_HOLDERS, {"now": now, "keys": keys})
    return [Holder(row.id, row.name, row.fleet, row.presence, row.not_after) for row in rows]
