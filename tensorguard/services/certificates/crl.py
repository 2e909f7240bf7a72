"""The certificate revocation list (RFC 5280 section 5), for third parties: no front needs it.

Two lists of one number are the same list: the number is made of the newest revocation and of the
half day, and so is all that stands in it, whichever process signs.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.issuer import CertificateAuthority
from tensorguard.store.tables import agents, certificates, revocations

GOOD_FOR: Final = timedelta(hours=24)
RENEWED_EVERY: Final = timedelta(hours=12)
MEDIA_TYPE: Final = "application/pkix-crl"
_BEGINNING: Final = datetime(2026, 1, 1, tzinfo=UTC)
_PERIODS: Final = 2**20  # of half a day: more than a thousand years


@dataclass(frozen=True, slots=True)
class Crl:
    """A signed list in DER, and what it was made from."""

    der: bytes
    number: int
    ca_sha256: bytes


class CrlCache:
    """The newest list of one process; made again after a revocation, or half a day."""

    def __init__(self) -> None:
        self._crl: Crl | None = None
        self._making = asyncio.Lock()

    async def get(self, session: AsyncSession, ca: CertificateAuthority, now: datetime) -> Crl:
        """Return the list as of `now`."""
        async with self._making:
            number = await find_number(session, now)
            known = self._crl
            own = ca.certificate.fingerprint(hashes.SHA256())
            if known is None or (known.number, known.ca_sha256) != (number, own):
                self._crl = known = await make_crl(session, ca, now)
            return known


async def find_number(session: AsyncSession, now: datetime) -> int:
    """Return the CRL number: it rises with every revocation and every half day."""
    newest = await session.execute(sa.select(sa.func.coalesce(sa.func.max(revocations.c.seq), 0)))
    return int(newest.scalar_one()) * _PERIODS + _period(now)


async def make_crl(session: AsyncSession, ca: CertificateAuthority, now: datetime) -> Crl:
    """Return the signed list of what `ca` has issued: certificates that have not ended, of agents
    that were revoked, and those that newer ones have superseded."""
    number = await find_number(session, now)
    newest = (
        await session.execute(
            sa.select(revocations.c.revoked_at).order_by(revocations.c.seq.desc()).limit(1)
        )
    ).scalar()
    begins = max(
        _BEGINNING + _period(now) * RENEWED_EVERY,
        ca.certificate.not_valid_before_utc,
        newest or _BEGINNING,
    ).replace(microsecond=0)
    rows = (await session.execute(_listed(ca, begins))).all()
    der = await asyncio.to_thread(_sign, ca, number, begins, rows)
    return Crl(der, number, ca.certificate.fingerprint(hashes.SHA256()))


def _period(now: datetime) -> int:
    return max(0, (now - _BEGINNING) // RENEWED_EVERY)


def _listed(ca: CertificateAuthority, begins: datetime) -> sa.Select[Any]:
    key_id = ca.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    table = certificates.c
    revoked = agents.c.status == "revoked"
    at = sa.case((revoked, agents.c.revoked_at), else_=table.superseded_at)
    return (
        sa.select(table.serial, revoked.label("revoked"), at.label("at"))
        .join(agents, agents.c.id == table.agent_id)
        .where(
            table.not_after > begins,
            table.authority_key_id == key_id.digest,
            revoked | table.superseded_at.is_not(None),
        )
        .order_by(table.serial)
    )


def _sign(
    ca: CertificateAuthority, number: int, begins: datetime, rows: Sequence[sa.Row[Any, Any, Any]]
) -> bytes:
    entries = [_entry(row) for row in rows]
    builder = (
        # Added one by one, the builder would copy the whole list each time.
        x509.CertificateRevocationListBuilder(revoked_certificates=entries)
        .issuer_name(ca.certificate.subject)
        .last_update(begins)
        .next_update(begins + GOOD_FOR)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.private_key.public_key()),
            critical=False,
        )
    )
    return builder.sign(ca.private_key, hashes.SHA256()).public_bytes(Encoding.DER)


def _entry(row: sa.Row[Any, Any, Any]) -> x509.RevokedCertificate:
    # Section 5.3.1: what the platform withdrew by decision, and what a renewal replaced.
    flags = x509.ReasonFlags
    reason = flags.privilege_withdrawn if row.revoked else flags.superseded
    return (
        x509.RevokedCertificateBuilder()
        .serial_number(int(row.serial, 16))
        .revocation_date(row.at)
        .add_extension(x509.CRLReason(reason), critical=False)
        .build()
    )
