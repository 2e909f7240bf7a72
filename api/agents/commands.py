"""`/api/v1/agents/{id}/commands`: what one agent is told to do, once at most."""

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from api.access import Requires
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Now, Session, new_router
from api.views import Body, View
from tensorguard.services.fleets.agents import get_agent
from tensorguard.services.fleets.commands import CommandKind, issue_command
from tensorguard.services.fleets.commands import list_commands as list_command_rows
from tensorguard.services.people.access import Caller, Permission

router = new_router("/api/v1/agents/{agent_id}/commands", "agents")
Reader = Annotated[Caller, Requires(Permission.AGENTS_READ)]
Admitter = Annotated[Caller, Requires(Permission.AGENTS_ADMIT)]


class CommandCreate(Body):
    """A command; after `ttl_s` it is not run any more."""

    kind: CommandKind
    arguments: dict[str, Any] = Field(default_factory=dict)
    ttl_s: Annotated[int, Field(ge=60, le=7 * 86400)] = 3600


class CommandView(View):
    """A command: queued, sent, acknowledged, and then done, failed, refused or expired."""

    id: UUID
    agent_id: UUID
    kind: str
    arguments: dict[str, Any]
    state: str
    result: dict[str, Any] | None
    created_at: datetime
    created_by: str
    expires_at: datetime
    sent_at: datetime | None
    finished_at: datetime | None


@router.post("", status_code=201)
async def create_command(
    caller: Admitter, session: Session, agent_id: UUID, body: CommandCreate, now: Now
) -> CommandView:
    """Queue a command: it is sent when the agent is next heard of."""
    row = await issue_command(
        session,
        agent_id,
        body.kind,
        arguments=body.arguments,
        ttl=timedelta(seconds=body.ttl_s),
        by=caller.actor,
        now=now,
    )
    return CommandView.model_validate(row)


@router.get("")
async def list_commands(
    caller: Reader,
    session: Session,
    agent_id: UUID,
    now: Now,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[CommandView]:
    """List an agent's commands, the newest first."""
    await get_agent(session, agent_id)
    before = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await list_command_rows(session, agent_id, now=now, before=before, limit=limit + 1)
    return page_of(rows, limit, view=CommandView.model_validate, key=lambda row: (str(row.id),))
