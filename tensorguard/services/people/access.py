"""Who may do what: permissions, and the four roles that hold them. What is not listed is denied."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from tensorguard.services.evidence.event import Actor


class Permission(StrEnum):
    """What a route may ask for."""

    OVERVIEW_READ = "overview:read"
    METRICS_READ = "metrics:read"
    FLEETS_READ = "fleets:read"
    FLEETS_WRITE = "fleets:write"
    TOKENS_READ = "tokens:read"
    TOKENS_WRITE = "tokens:write"
    AGENTS_READ = "agents:read"
    AGENTS_REVOKE = "agents:revoke"
    AGENTS_ADMIT = "agents:admit"
    MANUFACTURERS_READ = "manufacturers:read"
    MANUFACTURERS_WRITE = "manufacturers:write"
    TRUST_READ = "trust:read"
    TRUST_WRITE = "trust:write"
    KEYS_READ = "keys:read"
    KEYS_WRITE = "keys:write"
    APPROVALS_READ = "approvals:read"
    APPROVALS_DECIDE = "approvals:decide"
    PUBLISHERS_READ = "publishers:read"
    PUBLISHERS_WRITE = "publishers:write"
    PACKAGES_READ = "packages:read"
    PACKAGES_WRITE = "packages:write"
    RELEASES_READ = "releases:read"
    RELEASES_WRITE = "releases:write"
    DEPLOYMENTS_READ = "deployments:read"
    DEPLOYMENTS_WRITE = "deployments:write"
    LEDGER_READ = "ledger:read"
    SINKS_READ = "sinks:read"
    SINKS_WRITE = "sinks:write"
    USERS_ADMIN = "users:admin"
    API_KEYS_ADMIN = "api-keys:admin"
    SESSION_OWN = "session:own"


class Role(StrEnum):
    """What a user or an API key is."""

    VIEWER = "viewer"
    MLOPS = "mlops"
    COMPLIANCE = "compliance"
    ADMIN = "admin"


_VIEWER: Final = frozenset(
    {
        Permission.OVERVIEW_READ,
        Permission.METRICS_READ,
        Permission.FLEETS_READ,
        Permission.AGENTS_READ,
        Permission.TRUST_READ,
        Permission.KEYS_READ,
        Permission.SINKS_READ,
        Permission.PUBLISHERS_READ,
        Permission.PACKAGES_READ,
        Permission.RELEASES_READ,
        Permission.DEPLOYMENTS_READ,
        Permission.SESSION_OWN,
    }
)
ROLE_PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.VIEWER: _VIEWER,
    # Puts models on devices, and never decides which devices there are.
    Role.MLOPS: _VIEWER
    | {
        Permission.PACKAGES_WRITE,
        Permission.RELEASES_WRITE,
        Permission.DEPLOYMENTS_WRITE,
    },
    # Reads everything that happened and can stop a device; changes nothing else.
    Role.COMPLIANCE: _VIEWER
    | {
        Permission.TOKENS_READ,
        Permission.LEDGER_READ,
        Permission.AGENTS_REVOKE,
        Permission.MANUFACTURERS_READ,
        Permission.APPROVALS_READ,
        Permission.APPROVALS_DECIDE,
    },
    Role.ADMIN: frozenset(Permission),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a request, after proof: a person with a session, or a program with a key."""

    actor: Actor
    role: Role
    user_id: UUID | None = None
    session_sha256: bytes | None = None

    def may(self, permission: Permission) -> bool:
        """Tell whether the caller's role has the permission."""
        return permission in ROLE_PERMISSIONS[self.role]

    @property
    def actor_key(self) -> str:
        """The actor as one text, for keys that belong to one caller."""
        return f"{self.actor.kind}:{self.actor.id}"
