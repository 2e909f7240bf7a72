"""What a publisher's signature is worth at a moment, for a package of a name; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tensorguard.store.publishers import Publisher
from tensorguard.tgsp.signing import covers


class Standing(StrEnum):
    """Where a publisher stands in its life; what agents have heard of it is another matter."""

    UPCOMING = "upcoming"
    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a publisher's signature makes a package no good: for programs, and in words."""

    code: str
    message: str


def standing_of(
    *, not_before: datetime, not_after: datetime, revoked_at: datetime | None, now: datetime
) -> Standing:
    """Return where a publisher of this life stands at `now`."""
    if revoked_at is not None:
        return Standing.REVOKED
    if now >= not_after:
        return Standing.EXPIRED
    return Standing.UPCOMING if now < not_before else Standing.VALID


def find_objection(publisher: Publisher, package: str, now: datetime) -> Objection | None:
    """Return why a package of that name may not be used now on this publisher's word, if so."""
    code = find_objection_code(
        not_before=publisher.not_before,
        not_after=publisher.not_after,
        revoked_at=publisher.revoked_at,
        names=publisher.names,
        package=package,
        now=now,
    )
    if code is None:
        return None
    who = f"publisher {publisher.name!r} ({publisher.kid[:16]}…)"
    words = {
        "publisher-revoked": f"{who} was revoked"
        + (f": {publisher.revoked_reason}" if publisher.revoked_reason else ""),
        "publisher-expired": f"{who} was valid until {_minute(publisher.not_after)}",
        "publisher-not-yet-valid": f"{who} is valid from {_minute(publisher.not_before)} on",
        "publisher-not-allowed": f"{who} may not sign packages named {package!r}",
    }
    return Objection(code, words[code])


def find_objection_code(
    *,
    not_before: datetime,
    not_after: datetime,
    revoked_at: datetime | None,
    names: Sequence[str],
    package: str,
    now: datetime,
) -> str | None:
    """Return the code of the objection, if there is one."""
    standing = standing_of(
        not_before=not_before, not_after=not_after, revoked_at=revoked_at, now=now
    )
    if standing is not Standing.VALID:
        late = {Standing.UPCOMING: "not-yet-valid"}
        return f"publisher-{late.get(standing, standing)}"
    return None if covers(names, package) else "publisher-not-allowed"


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
