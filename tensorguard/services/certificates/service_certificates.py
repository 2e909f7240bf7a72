"""Certificates for services that hold no CA key: asked for, and answered, as rows of a table.

Who may write the row is a service of this platform: it has the services' database credentials. Even
so it gets no more than a certificate of its own kind, for hosts that are the platform's.
"""

import re
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final

import sqlalchemy as sa
from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncSession

from tensorguard.pki.csr import parse_csr
from tensorguard.pki.errors import PkiError
from tensorguard.pki.identity import ServiceIdentity, serial_text
from tensorguard.pki.issuer import certificate_pem
from tensorguard.services.certificates.authorities import get_issuing
from tensorguard.services.certificates.certificates import split_hosts
from tensorguard.services.errors import Invalid
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.event import Actor
from tensorguard.services.evidence.events import ServiceCertificateRefused, ServiceCertified
from tensorguard.services.keys.keyring import Keyring
from tensorguard.store.tables import service_certificates as requests

REQUESTED: Final = "tg_service_certificates"
ANSWERED: Final = "tg_service_certified"
# After this nobody waits for the answer any more: whoever asked has asked again.
OPEN_FOR: Final = timedelta(minutes=5)
KEPT_FOR: Final = timedelta(days=30)
MOST_HOSTS: Final = 32
# A front that crashes at every start must fill neither ledger nor table.
ANSWERS_A_MINUTE: Final = 30
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0", "::"})  # noqa: S104  names in a certificate
_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.ASCII)


class HostsNotAllowed(Invalid):
    """A service asks to be certified for hosts that are not this platform's."""

    code = "hosts-not-allowed"
    hint = "Name them in TG_PUBLIC_HOST or TG_FRONT_HOSTS of the hub and the api."


def allowed_hosts(*lists: str) -> frozenset[str]:
    """The hosts of comma-separated lists, and those that always mean this machine."""
    names = {name.strip().strip("[]").lower() for names in lists for name in names.split(",")}
    return frozenset(names - {""}) | _LOOPBACK


async def answer_requests(
    session: AsyncSession, keyring: Keyring, *, hosts: Collection[str], now: datetime
) -> int:
    """Answer what is open, with a certificate or a refusal; return how many.

    Nobody is certified by a CA that has been followed by another: then the next round answers.
    """
    budget = ANSWERS_A_MINUTE - await _count_answers(session, since=now - timedelta(minutes=1))
    waiting = await _take_open(session, most=budget, since=now - OPEN_FOR) if budget > 0 else []
    if not waiting or (await get_issuing(session)).pin != keyring.ca.spki_sha256:
        return 0
    for request in waiting:
        try:
            certificate = _certify(keyring, request, hosts, now)
        except (PkiError, Invalid) as error:
            await _answer(session, request, now, refusal=f"{error.code}: {error.message}"[:500])
            await _tell_refused(session, request, error.code, now)
        else:
            await _answer(session, request, now, certificate=certificate_pem(certificate))
            event = ServiceCertified(
                by=Actor("service", request.service),
                instance=request.instance,
                service=request.service,
                serial=serial_text(certificate.serial_number),
                ca=keyring.ca.spki_sha256,
                not_after=certificate.not_valid_after_utc,
            )
            await ledger.record(session, event, now=now)
    await session.execute(sa.select(sa.func.pg_notify(ANSWERED, "")))
    return len(waiting)


async def forget_requests(session: AsyncSession, *, now: datetime) -> int:
    """Delete what was asked for long ago; return how many rows."""
    done = await session.execute(
        sa.delete(requests).where(requests.c.requested_at < now - KEPT_FOR)
    )
    return int(done.rowcount)  # type: ignore[attr-defined]  # a DELETE's result counts


def check_hosts(asked: Sequence[str], allowed: Collection[str]) -> None:
    """Refuse hosts that are malformed, too many or not allowed. Raises: HostsNotAllowed."""
    if not 1 <= len(asked) <= MOST_HOSTS:
        raise HostsNotAllowed(f"{len(asked)} hosts were asked for; 1 to {MOST_HOSTS} are certified")
    for host in asked:
        if not _is_host(host):
            raise HostsNotAllowed(f"{host[:80]!r} is neither a host name nor an address")
        if host.lower() not in allowed:
            raise HostsNotAllowed(f"{host!r} is not one of this platform's hosts")


def _is_host(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return len(text) <= 253 and _NAME.fullmatch(text.lower()) is not None
    return True


def _certify(
    keyring: Keyring, request: sa.Row[Any], allowed: Collection[str], now: datetime
) -> x509.Certificate:
    check_hosts(request.hosts, allowed)
    names, addresses = split_hosts(request.hosts)
    return keyring.ca.issue_service(
        parse_csr(request.csr),
        ServiceIdentity(keyring.trust_domain, request.service),
        now,
        dns_names=names,
        ip_addresses=addresses,
    )


async def _take_open(session: AsyncSession, *, most: int, since: datetime) -> Sequence[sa.Row[Any]]:
    query = (
        sa.select(requests)
        .where(requests.c.answered_at.is_(None), requests.c.requested_at > since)
        .order_by(requests.c.requested_at, requests.c.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return (await session.execute(query)).all()


async def _count_answers(session: AsyncSession, *, since: datetime) -> int:
    query = sa.select(sa.func.count()).where(
        requests.c.answered_at > since, requests.c.requested_at > since - OPEN_FOR
    )
    return (await session.execute(query)).scalar_one()


async def _answer(
    session: AsyncSession,
    request: sa.Row[Any],
    now: datetime,
    *,
    certificate: str | None = None,
    refusal: str | None = None,
) -> None:
    await session.execute(
        sa.update(requests)
        .where(requests.c.id == request.id)
        .values(certificate=certificate, refusal=refusal, answered_at=now)
    )


async def _tell_refused(
    session: AsyncSession, request: sa.Row[Any], reason: str, now: datetime
) -> None:
    event = ServiceCertificateRefused(
        by=Actor("service", request.service),
        instance=request.instance,
        service=request.service,
        reason=reason,
    )
    await ledger.record(session, event, now=now)
