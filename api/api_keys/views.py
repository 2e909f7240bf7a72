"""Bodies and answers about API keys."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from api.views import Body, Line, View
from tensorguard.services.people.access import Role


class ApiKeyCreate(Body):
    """A new key; without a lifetime it is good until it is revoked."""

    name: Line
    role: Role
    ttl_s: Annotated[int, Field(ge=60, le=5 * 365 * 86_400)] | None = None


class ApiKeyView(View):
    """A key without its secret."""

    id: UUID
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewApiKeyView(View):
    """A key that was just made: `key` is never shown again."""

    id: UUID
    key: str
    expires_at: datetime | None
