"""Bodies and answers about recoveries."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from api.views import Body, Reason, View

RecoveryState = Literal["pending", "approved", "rejected", "expired"]


class RecoveryView(View):
    """An agent that was off past its certificate's end, and asks for another with a new key."""

    id: UUID
    agent_id: UUID
    agent_name: str
    fleet: str
    serial: str
    expired_at: datetime
    peer: str
    state: RecoveryState
    reason: str | None
    requested_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    decided_by: str | None


class RecoveryApprove(Body):
    """Nothing more has to be said."""


class RecoveryReject(Body):
    """Why the device may not come back: it is told, and the ledger keeps it."""

    reason: Reason
