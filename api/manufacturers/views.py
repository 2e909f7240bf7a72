"""Bodies and answers about manufacturer CAs."""

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from pydantic import Field, StringConstraints

from api.enrollment_tokens.views import TagKey, TagValue
from api.views import LINE_PATTERN, Body, Line, View
from tensorguard.pki.manufacturer import PEM_LIMIT_BYTES, SERIAL_LIMIT
from tensorguard.services.enrollment.manufacturers import MOST_AGENTS, MOST_SERIALS, MOST_TAGS

CertificatePem = Annotated[
    str, StringConstraints(max_length=PEM_LIMIT_BYTES), Field(description="One certificate, PEM.")
]
Serial = Annotated[
    str, StringConstraints(min_length=1, max_length=SERIAL_LIMIT, pattern=LINE_PATTERN)
]


class ManufacturerCreate(Body):
    """A CA that issues devices' certificates directly, and what its devices get."""

    name: Line
    certificate: CertificatePem
    approval: Literal["auto", "manual"] = "manual"
    serials: (
        Annotated[
            list[Serial],
            Field(
                min_length=1,
                max_length=MOST_SERIALS,
                description="Only devices with one of these subject serialNumbers; null: all.",
            ),
        ]
        | None
    ) = None
    max_agents: Annotated[int, Field(ge=1, le=MOST_AGENTS)]
    tags: Annotated[dict[TagKey, TagValue], Field(max_length=MOST_TAGS, default_factory=dict)]


class Proof(Body):
    """A certificate that the CA has issued directly, with CN = the challenge."""

    certificate: CertificatePem


class ManufacturerView(View):
    """A manufacturer CA; `agents` have come by it and were not released.

    `challenge` is null once it is answered for good. Devices enrol at `enroll_url`, where they find
    the platform CA that `ca_pin` names.
    """

    id: UUID
    fleet: str
    name: str
    spki_sha256: str
    certificate: str
    approval: Literal["auto", "manual"]
    serials_count: int | None
    max_agents: int
    agents: int
    tags: dict[str, str]
    state: Literal["unproven", "active", "revoked"]
    challenge: str | None
    challenge_expires_at: datetime
    not_after: datetime
    created_at: datetime
    created_by: str
    activated_at: datetime | None
    revoked_at: datetime | None
    enroll_url: str | None
    ca_pin: str


class ManufacturerDetail(ManufacturerView):
    """A manufacturer CA with its list of serial numbers."""

    serials: list[str] | None


class Whereabouts(NamedTuple):
    """Where devices enrol, and by what they know the platform."""

    enroll_url: str | None
    ca_pin: str


def manufacturer_view(row: sa.Row[Any], where: Whereabouts) -> ManufacturerDetail:
    """Return a row as its detail, of which a list shows the less."""
    values = dict(row._mapping)
    return ManufacturerDetail(
        **values
        | {
            "spki_sha256": bytes(row.spki_sha256).hex(),
            "serials_count": None if row.serials is None else len(row.serials),
            "challenge": row.challenge if row.state == "unproven" else None,
        },
        **where._asdict(),
    )
