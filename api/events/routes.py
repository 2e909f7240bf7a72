"""`/api/v1/events`: what changes, as it changes."""

from typing import Annotated, Final

from fastapi import Header, Query, Response

from api.access import Requires
from api.events.response import EventStream
from api.events.subscription import Interest
from api.routing import Context, new_router
from tensorguard.services.hints import HintKind
from tensorguard.services.people.access import Caller, Permission

router = new_router("/api/v1/events", "events")

_KIND: Final = "|".join(HintKind)
_STREAM: Final = {
    "description": "Server-sent events: hints of ids, as long as the session lasts.",
    "content": {
        "text/event-stream": {
            # Of each event, as OpenAPI 3.2 means it (section 4.14.4).
            "schema": {
                "type": "object",
                "properties": {
                    "event": {"type": "string", "enum": [*HintKind, "reset"]},
                    "data": {"type": "string", "contentMediaType": "application/json"},
                    "id": {"type": "string", "pattern": "^[0-9]+$"},
                },
                "required": ["event", "data"],
            }
        }
    },
}


@router.get("", response_class=Response, responses={200: _STREAM})
async def follow_events(
    caller: Annotated[Caller, Requires(Permission.SESSION_OWN)],
    context: Context,
    kinds: Annotated[
        str | None,
        Query(pattern=f"^({_KIND})(,({_KIND}))*$", description="Which kinds, with commas."),
    ] = None,
    fleet: Annotated[
        str | None, Query(max_length=40, description="Only of this fleet, or of none.")
    ] = None,
    last_event_id: Annotated[str | None, Header(max_length=40)] = None,
) -> Response:
    """Say what changes: `event` is the kind, `data` is `{"kind", "id", "fleet"}`, ids only.

    An `id` of null is any number of them. `heartbeats` has a `count` too: those accepted since the
    one before. `reset` says that hints were lost: read everything again. With Last-Event-ID the
    stream goes on where it was cut. Hints of what the caller's role may not read are left out.
    """
    interest = Interest(
        None if kinds is None else frozenset(HintKind(kind) for kind in kinds.split(",")), fleet
    )
    return EventStream(context.feed, caller, interest, resume_at=_position(last_event_id))


def _position(last_event_id: str | None) -> int | None:
    if not last_event_id:
        return None
    # What we never said is a position of which nothing is kept.
    return int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 19 else -1
