"""What an approval does when a second person agrees: one executor for each kind.

Executors run in the transaction of the decision, so what they do and that it was approved are
committed together. They raise a ServiceError to refuse; nothing they did stands then.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from api.context import ApiContext
from api.publishers.views import PublisherChange, PublisherRegister
from tensorguard.services.deployments.approving import require_approval, start_approved
from tensorguard.services.enrollment import manufacturers
from tensorguard.services.keys.kek_changes import destroy_version
from tensorguard.services.keys.kek_providers import KekProviders
from tensorguard.services.people.approval import JSON, ApprovalKind, Deciders, Executor
from tensorguard.services.revocation.fleet_revocations import revoke_fleet
from tensorguard.services.revocation.revocations import revoke_agent
from tensorguard.services.trust import publishers
from tensorguard.services.trust.trust_publishing import publish


def executors_of(context: ApiContext) -> Mapping[ApprovalKind, Executor]:
    """Return what carries out each kind in this process."""
    return {
        ApprovalKind.REGISTER_MANUFACTURER: _activate_manufacturer,
        ApprovalKind.REGISTER_PUBLISHER: _register_publisher,
        ApprovalKind.CHANGE_PUBLISHER: _change_publisher,
        ApprovalKind.REVOKE_PUBLISHER: _revoke_publisher,
        ApprovalKind.REVOKE_AGENT: _revoke_agent,
        ApprovalKind.REVOKE_FLEET: _revoke_fleet,
        ApprovalKind.PUBLISH_TRUST: _publish_trust,
        ApprovalKind.DESTROY_KEY: partial(_destroy_key, context.kek),
        ApprovalKind.START_DEPLOYMENT: start_approved,
        ApprovalKind.WAIVE_APPROVAL: _waive_approval,
    }


async def _activate_manufacturer(
    session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
) -> Mapping[str, JSON]:
    ca_id = UUID(request["manufacturer_ca_id"])
    await manufacturers.activate_manufacturer(
        session, ca_id, by=deciders.requested_by, approved_by=deciders.approved_by, now=now
    )
    return {"manufacturer_ca_id": str(ca_id)}


async def _register_publisher(
    session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
) -> Mapping[str, JSON]:
    wanted = PublisherRegister.model_validate(request)
    publisher = await publishers.register_publisher(
        session, **wanted.arguments(), by=deciders.requested_by, now=now
    )
    return {"kid": publisher.kid}


async def _change_publisher(
    session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
) -> Mapping[str, JSON]:
    kid = request["kid"]
    wanted = PublisherChange.model_validate({k: v for k, v in request.items() if k != "kid"})
    publisher = await publishers.change_publisher(
        session,
        kid,
        names=wanted.names,
        not_after=wanted.not_after,
        reason=wanted.reason,
        by=deciders.requested_by,
        now=now,
    )
    return {"kid": publisher.kid}


async def _revoke_publisher(
    session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
) -> Mapping[str, JSON]:
    publisher = await publishers.revoke_publisher(
        session, request["kid"], reason=request["reason"], by=deciders.requested_by, now=now
    )
    return {"kid": publisher.kid}


async def _revoke_agent(
    session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
) -> Mapping[str, JSON]:
    receipt = await revoke_agent(
        session,
        UUID(request["agent_id"]),
        reason=request["reason"],
        by=deciders.requested_by,
        approved_by=deciders.approved_by,
        now=now,
    )
    return {"agent_id": str(receipt.agent_id), "seq": receipt.seq}


async def _revoke_fleet(
    session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
) -> Mapping[str, JSON]:
    receipt = await revoke_fleet(
        session,
        request["fleet"],
        reason=request["reason"],
        by=deciders.requested_by,
        approved_by=deciders.approved_by,
        now=now,
    )
    return {"fleet": receipt.fleet, "revocation_id": str(receipt.id), "agents": receipt.agents}


async def _waive_approval(
    session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
) -> Mapping[str, JSON]:
    await require_approval(
        session,
        request["fleet"],
        required=False,
        by=deciders.requested_by,
        approved_by=deciders.approved_by,
        now=now,
    )
    return {"fleet": request["fleet"]}


async def _publish_trust(
    session: AsyncSession, request: Mapping[str, Any], deciders: Deciders, now: datetime
) -> Mapping[str, JSON]:
    raw = msgspec.json.encode(request["envelope"])
    store = await publish(session, raw, by=deciders.requested_by, now=now)
    return {"version": store.version}


async def _destroy_key(
    keks: KekProviders,
    session: AsyncSession,
    request: Mapping[str, Any],
    deciders: Deciders,
    now: datetime,
) -> Mapping[str, JSON]:
    kek = await destroy_version(
        session,
        keks,
        UUID(request["kek_id"]),
        request["version"],
        by=deciders.requested_by,
        approved_by=deciders.approved_by,
        now=now,
    )
    return {"kek_id": str(kek.id), "version": request["version"]}
