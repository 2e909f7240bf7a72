"""Keys of entries' private fields: made where an entry is written, destroyed to erase them.

Each is of one subject, and sealed to the platform's privacy key (HPKE, RFC 9180): whoever writes
an entry needs no secret, whoever reads private fields needs the vault.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.ledger.entry import Subject
from tensorguard.ledger.private import BadPrivate, PrivateKey
from tensorguard.store.tables import privacy_keys, subject_keys

_LABEL: Final = b"tensorguard.ledger/v1 private\0"
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


async def make_subject_keys(
    session: AsyncSession, subjects: Sequence[Subject], *, now: datetime
) -> dict[Subject, PrivateKey]:
    """Make and store a key for each subject; none where the platform has no privacy key yet."""
    query = sa.select(privacy_keys).order_by(privacy_keys.c.created_at.desc()).limit(1)
    newest = (await session.execute(query)).one_or_none()
    if newest is None or not subjects:
        return {}
    public = X25519PublicKey.from_public_bytes(newest.public)
    made = {subject: PrivateKey.generate() for subject in subjects}
    rows = [
        {
            "kid": key.kid,
            "subject_kind": subject.kind,
            "subject_id": subject.id,
            "privacy_kid": newest.kid,
            "sealed": _SUITE.encrypt(key.key, public, _info(key.kid, subject)),
            "created_at": now,
        }
        for subject, key in made.items()
    ]
    await session.execute(sa.insert(subject_keys), rows)
    return made


async def open_subject_keys(
    session: AsyncSession, privates: Mapping[str, X25519PrivateKey], kids: Sequence[str]
) -> dict[str, bytes]:
    """Return the keys of these ids that have not been destroyed, opened by the privacy keys.

    Raises: BadPrivate: a row was tampered with.
    """
    query = sa.select(subject_keys).where(subject_keys.c.kid.in_(kids))
    opened: dict[str, bytes] = {}
    for row in await session.execute(query):
        subject = Subject(row.subject_kind, row.subject_id)
        try:
            info = _info(row.kid, subject)
            opened[row.kid] = _SUITE.decrypt(row.sealed, privates[row.privacy_kid], info)
        except (InvalidTag, ValueError, KeyError) as error:
            raise BadPrivate(f"the key {row.kid} of {subject.kind} does not open") from error
    return opened


def _info(kid: str, subject: Subject) -> bytes:
    return _LABEL + "\n".join((kid, subject.kind, subject.id)).encode()
