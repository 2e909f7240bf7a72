"""`/api/v1/ledger`: what an auditor needs beside entries: types, witnesses, the verifier."""

from pathlib import Path
from typing import Annotated

from fastapi import Response
from fastapi.responses import PlainTextResponse

import tensorguard.ledger.verify
from api.access import Requires
from api.ledger.views import CheckpointsView, EventTypeView, checkpoints_view
from api.routing import Session, new_router
from tensorguard.services.evidence.catalogue import list_events, list_reported_types
from tensorguard.services.evidence.tree_queries import find_latest_checkpoint, get_epoch
from tensorguard.services.evidence.witnesses import count_witnesses
from tensorguard.services.people.access import Caller, Permission

router = new_router("/api/v1/ledger", "ledger")
Reader = Annotated[Caller, Requires(Permission.LEDGER_READ)]
REPORTED = "agent.reported"


@router.get("/types")
async def list_types(caller: Reader) -> list[EventTypeView]:
    """List every type of entry that there can be, by name."""
    found = []
    for kind in list_events():
        reports = kind.type.startswith(f"{REPORTED}.")
        found += [
            EventTypeView(type=name, subject=kind.subject, outcome=kind.outcome, what=kind.what)
            for name in (list_reported_types() if reports else [kind.type])
        ]
    return found


@router.get("/checkpoints")
async def get_checkpoints(caller: Reader, session: Session) -> CheckpointsView:
    """Tell the present epoch, when it was signed last, and how many agents remember it."""
    epoch = await get_epoch(session)
    last = await find_latest_checkpoint(session, epoch)
    witnesses = await count_witnesses(session, epoch)
    return checkpoints_view(epoch, None if last is None else last.signed_at, witnesses)


@router.get("/verify.py", response_class=PlainTextResponse)
async def get_verifier(caller: Reader) -> Response:
    """Return the verifier of exports: one file, for Python with `cryptography`."""
    headers = {"Content-Disposition": 'attachment; filename="verify.py"'}
    return PlainTextResponse(_VERIFIER, headers=headers)


# Read once: what is served is what this program itself verifies with.
_VERIFIER = Path(tensorguard.ledger.verify.__file__).read_text("utf-8")
