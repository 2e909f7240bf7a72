"""Bodies and answers about enrollment tokens."""

from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from api.views import Body, View
from tensorguard.services.enrollment.tokens import MOST_TAGS, MOST_USES

_LONGEST_TTL_S = 365 * 86_400
TagKey = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$")
]
TagValue = Annotated[
    str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")
]


class TokenCreate(Body):
    """Terms of a new token: how long, how often, from where, and the tags that it gives."""

    ttl_s: Annotated[int, Field(ge=1, le=_LONGEST_TTL_S)]
    max_uses: Annotated[int, Field(ge=1, le=MOST_USES)] = 1
    tags: Annotated[dict[TagKey, TagValue], Field(max_length=MOST_TAGS, default_factory=dict)]
    approval: Literal["auto", "manual"] = "auto"
    cidr: IPv4Network | IPv6Network | None = None


class NewTokenView(View):
    """A token that was just minted: the join string is never shown again."""

    id: UUID
    join: str
    expires_at: datetime


class TokenView(View):
    """A token without its secret."""

    id: UUID
    fleet: str
    tags: dict[str, str]
    approval: str
    cidr: str | None
    max_uses: int
    uses_left: int
    expires_at: datetime
    created_at: datetime
    created_by: str
    revoked_at: datetime | None
