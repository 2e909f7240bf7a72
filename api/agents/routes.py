"""`/api/v1/agents`: the list, one of them, and the kill switch."""

import asyncio
from typing import Annotated
from uuid import UUID

from fastapi import Query, Response
from pydantic import AwareDatetime

from api.access import Requires
from api.agents.sorting import Sort, parse_place, place_of
from api.agents.views import (
    AgentDetail,
    AgentView,
    EnrolledBy,
    Presence,
    ReceiptView,
    Revoke,
    Status,
    agent_detail,
    agent_view,
)
from api.approvals.views import ApprovalView, approval_view
from api.context import ApiContext
from api.etags import revision_etag
from api.fleets.views import Slug
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Context, Now, Session, new_router
from api.views import LINE_PATTERN
from tensorguard.rollouts.selector import MAX_CHARACTERS, parse_selector
from tensorguard.services.compliance.bands import Band, reasons_of
from tensorguard.services.fleets.agents import get_agent as get_agent_row
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.approvals import ApprovalKind, ask
from tensorguard.services.revocation.mass_revocation import is_one_too_many
from tensorguard.services.revocation.revocations import Receipt, get_receipt, revoke_agent
from tensorguard.store.agents import AgentFilter, list_certificates
from tensorguard.store.agents import list_agents as list_agent_rows
from tensorguard.store.standing import Reason as Why
from tensorguard.store.standing import Standing

router = new_router("/api/v1/agents", "agents")
Reader = Annotated[Caller, Requires(Permission.AGENTS_READ)]
Revoker = Annotated[Caller, Requires(Permission.AGENTS_REVOKE)]
_POLL_S = 0.02


@router.get("")
async def list_agents(
    caller: Reader,
    session: Session,
    now: Now,
    fleet: Annotated[Slug | None, Query()] = None,
    status: Annotated[Status | None, Query()] = None,
    presence: Annotated[Presence | None, Query()] = None,
    trust_at_least: Annotated[int | None, Query(ge=0, le=100)] = None,
    trust_below: Annotated[int | None, Query(ge=0, le=101)] = None,
    selector: Annotated[
        str | None,
        Query(
            max_length=MAX_CHARACTERS,
            description="Conditions on tags: `gpu=true,region in (us-east,us-west),!legacy`.",
        ),
    ] = None,
    q: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=200,
            pattern=LINE_PATTERN,
            description="Part of a name, or the beginning of an id.",
        ),
    ] = None,
    enrolled_by: Annotated[EnrolledBy | None, Query()] = None,
    certificate_expires_before: Annotated[AwareDatetime | None, Query()] = None,
    compliance: Annotated[
        Band | Why | None,
        Query(description="A band of the sunburst, or one reason: those that it counts there."),
    ] = None,
    sort: Annotated[Sort, Query(description="`-` before it: the largest first.")] = "name",
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[AgentView]:
    """List agents, by default in the order of their names."""
    after = decode_cursor(cursor, lambda values: parse_place(sort, values))
    wanted = AgentFilter(
        fleet=fleet,
        status=status,
        presence=presence,
        trust_at_least=trust_at_least,
        trust_below=trust_below,
        selector=None if selector is None else parse_selector(selector),
        text=q,
        enrolled_by=enrolled_by,
        certificate_expires_before=certificate_expires_before,
        standing=None if compliance is None else Standing(now),
        reasons=() if compliance is None else reasons_of(compliance),
    )
    rows = await list_agent_rows(session, wanted, sort=sort, after=after, limit=limit + 1)
    return page_of(rows, limit, view=agent_view, key=lambda row: place_of(sort, row))


@router.get("/{agent_id}")
async def get_agent(
    caller: Reader, session: Session, response: Response, agent_id: UUID
) -> AgentDetail:
    """Return one agent."""
    row = await get_agent_row(session, agent_id)
    response.headers["ETag"] = revision_etag(row["revision"])
    return agent_detail(row, await list_certificates(session, agent_id))


@router.post(
    "/{agent_id}/revoke",
    response_model=ReceiptView,
    responses={202: {"model": ApprovalView, "description": "A second person has to agree."}},
)
async def revoke(
    caller: Revoker,
    context: Context,
    agent_id: UUID,
    body: Revoke,
    now: Now,
) -> ReceiptView | Response:
    """Pull the kill switch: the agent is disconnected, refused, and cannot come back.

    Answers with the receipt so far, at the latest after a second: GET …/revocation tells the rest.
    Whoever has revoked more than ten agents of the fleet, and more than 5 % of it, within ten
    minutes is answered with an approval instead: a second person has to agree.
    """
    # Committed before the wait: the fronts hear of it only then.
    async with context.sessions.begin() as session:
        agent = await get_agent_row(session, agent_id)
        if agent["status"] != "revoked" and await is_one_too_many(
            session, agent["fleet"], by=caller.actor, now=now
        ):
            approval = await ask(
                session,
                ApprovalKind.REVOKE_AGENT,
                {"agent_id": str(agent_id), "reason": body.reason},
                fleet=agent["fleet"],
                by=caller,
                now=now,
            )
            view = await approval_view(session, approval, caller, now=now)
            return Response(view.model_dump_json(), 202, media_type="application/json")
        receipt = await revoke_agent(
            session, agent_id, reason=body.reason, by=caller.actor, now=now
        )
    return _receipt_view(await _settled(context, receipt))


@router.get("/{agent_id}/revocation")
async def get_revocation(caller: Reader, session: Session, agent_id: UUID, now: Now) -> ReceiptView:
    """Return the receipt of a revocation."""
    await get_agent_row(session, agent_id)
    return _receipt_view(await get_receipt(session, agent_id, now=now))


async def _settled(context: ApiContext, receipt: Receipt) -> Receipt:
    """Return the receipt once every front has confirmed, or what there is when the time is up."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + context.settings.receipt_wait.total_seconds()
    while receipt.waiting_for and loop.time() < give_up_at:
        await asyncio.sleep(_POLL_S)
        async with context.sessions() as session:
            receipt = await get_receipt(session, receipt.agent_id, now=context.clock())
    return receipt


def _receipt_view(receipt: Receipt) -> ReceiptView:
    return ReceiptView.model_validate(receipt)
