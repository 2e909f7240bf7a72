"""`/api/v1/compliance/report` and `/summary`: what happened to a fleet in a period."""

import base64
from collections.abc import AsyncIterator
from typing import Annotated, Final, Literal

from fastapi import Query
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime

from api.access import Requires
from api.compliance import page
from api.compliance.report_views import ReportView, SummaryView, report_view, summary_view
from api.context import ApiContext
from api.fleets.views import Slug
from api.limits import limits
from api.routing import Context, Now, Session, new_router
from tensorguard.services.compliance.proofs import export_entries
from tensorguard.services.compliance.report import Report, make_report, summarise
from tensorguard.services.people.access import Caller, Permission

router = new_router("/api/v1/compliance", "compliance")
Reader = Annotated[Caller, Requires(Permission.LEDGER_READ)]
Fleet = Annotated[Slug | None, Query(description="Of this fleet; of all unless given.")]
From = Annotated[
    AwareDatetime | None, Query(alias="from", description="Inclusive; 30 days before `to`.")
]
To = Annotated[AwareDatetime | None, Query(alias="to", description="Exclusive; now.")]
TIMEOUT_S: Final = 120.0
_BASE64_BLOCK: Final = 3 * 4096


@router.get("/summary")
@limits(timeout_s=TIMEOUT_S)
async def get_summary(
    caller: Reader,
    context: Context,
    session: Session,
    now: Now,
    fleet: Fleet = None,
    since: From = None,
    until: To = None,
) -> SummaryView:
    """Return the numbers of a period, and no entry: no export."""
    async with context.reports.one():
        found = await summarise(session, fleet=fleet, since=since, until=until, now=now)
    return summary_view(found)


@router.get(
    "/report",
    response_class=StreamingResponse,
    responses={
        200: {
            "model": ReportView,
            "content": {"text/html": {"schema": {"type": "string"}}},
            "description": "A page without scripts, or the same as JSON.",
        }
    },
)
@limits(timeout_s=TIMEOUT_S)
async def get_report(
    caller: Reader,
    context: Context,
    session: Session,
    now: Now,
    fleet: Fleet = None,
    since: From = None,
    until: To = None,
    format: Annotated[Literal["html", "json"], Query()] = "html",
) -> StreamingResponse:
    """Report what happened in a period, with the proofs; the ledger keeps that it was exported."""
    async with context.reports.one():
        report = await make_report(
            session,
            fleet=fleet,
            since=since,
            until=until,
            trust_domain=context.keyring.trust_domain,
            caller=caller,
            now=now,
        )
    view = report_view(report)
    name = f"{page.file_name(view)}.{format}"
    headers = {"Content-Disposition": f'inline; filename="{name}"'}
    if format == "json":
        body = _json(context, report, view)
        return StreamingResponse(body, media_type="application/json", headers=headers)
    headers["Content-Security-Policy"] = page.CONTENT_SECURITY_POLICY
    body = _page(context, report, view)
    return StreamingResponse(body, media_type="text/html; charset=utf-8", headers=headers)


async def _page(context: ApiContext, report: Report, view: ReportView) -> AsyncIterator[bytes]:
    yield page.head(view)
    for part in page.sections(view):
        yield part
    yield page.integrity(view)
    for epoch, indexes in report.listed_indexes().items():
        before, after = page.attachment(view, epoch, len(indexes))
        yield before
        async for chunk in _evidence(context, report, epoch, indexes):
            yield chunk
        yield after
    yield page.tail()


async def _json(context: ApiContext, report: Report, view: ReportView) -> AsyncIterator[bytes]:
    """The evidence, which may be large, in the place of the empty list at the end."""
    whole = view.model_dump_json().encode()
    start, found, end = whole.rpartition(b"[]")
    assert (found, end) == (b"[]", b"}"), "evidence is the last of a report's fields"
    yield start + b"["
    for number, (epoch, indexes) in enumerate(report.listed_indexes().items()):
        name = page.evidence_name(view, epoch)  # a slug and dates: nothing to escape
        comma = "," if number else ""
        head = f'{comma}{{"epoch":{epoch},"name":"{name}","entries":{len(indexes)},"content":"'
        yield head.encode()
        async for chunk in _evidence(context, report, epoch, indexes):
            yield chunk
        yield b'"}'
    yield b"]}"


async def _evidence(
    context: ApiContext, report: Report, epoch: int, indexes: list[int]
) -> AsyncIterator[bytes]:
    """Base64 of the entries with their proofs, in whole blocks."""
    checkpoint, rest = report.scope.checkpoints[epoch], b""
    async with context.sessions() as reading:
        async for chunk in context.exports.each(export_entries(reading, checkpoint, indexes)):
            rest += chunk
            whole = len(rest) - len(rest) % _BASE64_BLOCK
            if whole:
                yield base64.b64encode(rest[:whole])
                rest = rest[whole:]
    yield base64.b64encode(rest)
