"""`/api/v1/releases`: made once, never changed."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from pydantic import StringConstraints

from api.access import Requires
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Now, Session, new_router
from api.views import LINE_PATTERN, Body, Notes, Reason, View
from tensorguard.services.deployments import releases
from tensorguard.services.deployments.release_diff import diff_releases
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.packages import Release
from tensorguard.store.packages import list_releases as list_release_rows

router = new_router("/api/v1/releases", "releases")
Reader = Annotated[Caller, Requires(Permission.RELEASES_READ)]
Writer = Annotated[Caller, Requires(Permission.RELEASES_WRITE)]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=LINE_PATTERN)]


class ReleaseCreate(Body):
    """A new release; called as the package is unless told otherwise."""

    package_digest: Digest
    name: Name | None = None
    version: Name | None = None
    notes: Notes = ""


class ReleaseView(View):
    """A release."""

    id: UUID
    name: str
    version: str
    package_digest: str
    notes: str
    created_at: datetime
    created_by: str
    withdrawn_at: datetime | None


class ReleaseWithdraw(Body):
    """Why it must go to nobody else; stands in the ledger."""

    reason: Reason


class FieldChangeView(View):
    """One value of the manifest; null: it is not there."""

    path: str
    before: Any
    after: Any


class FileChangeView(View):
    """One file of the package."""

    path: str
    change: Literal["added", "removed", "changed"]
    before_bytes: int | None
    after_bytes: int | None


class ReleaseDiffView(View):
    """In what two releases differ, by their signed manifests."""

    fields: list[FieldChangeView]
    files: list[FileChangeView]
    unchanged_files: int


def release_view(release: Release) -> ReleaseView:
    """Return a release as the api shows it."""
    columns = {name: getattr(release, name) for name in ReleaseView.model_fields}
    return ReleaseView(**(columns | {"package_digest": release.package_digest.hex()}))


@router.post("", status_code=201)
async def create_release(
    caller: Writer, session: Session, body: ReleaseCreate, now: Now
) -> ReleaseView:
    """Make a release of an uploaded package."""
    release = await releases.create_release(
        session,
        package_digest=bytes.fromhex(body.package_digest),
        name=body.name,
        version=body.version,
        notes=body.notes,
        by=caller.actor,
        now=now,
    )
    return release_view(release)


@router.get("")
async def list_releases(
    caller: Reader,
    session: Session,
    name: Annotated[Name | None, Query()] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[ReleaseView]:
    """List releases, newest first."""
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await list_release_rows(session, name=name, after=after, limit=limit + 1)
    return page_of(rows, limit, view=release_view, key=lambda release: (str(release.id),))


@router.get("/{release_id}")
async def get_release(caller: Reader, session: Session, release_id: UUID) -> ReleaseView:
    """Return one release."""
    return release_view(await releases.get_release(session, release_id))


@router.get("/{release_id}/diff/{other_id}")
async def diff_release(
    caller: Reader, session: Session, release_id: UUID, other_id: UUID
) -> ReleaseDiffView:
    """Return what changes from one release to the other."""
    diff = await diff_releases(session, release_id, other_id)
    return ReleaseDiffView.model_validate(diff)


@router.post("/{release_id}/withdraw")
async def withdraw_release(
    caller: Writer, session: Session, release_id: UUID, body: ReleaseWithdraw, now: Now
) -> ReleaseView:
    """Let a release go to nobody else: running deployments of it pause."""
    release = await releases.withdraw_release(
        session, release_id, reason=body.reason, by=caller.actor, now=now
    )
    return release_view(release)
