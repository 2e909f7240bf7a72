"""`/api/v1/keys`: KEKs of platform and fleets. To destroy a version takes a second person."""

from datetime import UTC
from typing import Annotated
from uuid import UUID

from fastapi import Path

from api.access import Requires
from api.approvals.views import ApprovalView, approval_view
from api.keys.views import (
    VERSION_PATTERN,
    DestroyVersion,
    ImportMaterial,
    ImportParametersView,
    KekAdd,
    KekDetail,
    KekView,
    Migrate,
    ProviderView,
    Rewrap,
    RewrapJobView,
    job_view,
    kek_view,
    kek_views,
)
from api.limits import limits
from api.pages import Page
from api.routing import Context, Now, Session, new_router
from tensorguard.services.keys import kek_changes, rewrap_jobs
from tensorguard.services.keys.kek_watch import check_kek
from tensorguard.services.keys.keks import get_kek, list_keks
from tensorguard.services.people import approvals
from tensorguard.services.people.access import Caller, Permission
from tensorguard.services.people.approvals import ApprovalKind
from tensorguard.vault.catalogue import check_destroys_versions, find_providers
from tensorguard.vault.reference import KekReference

router = new_router("/api/v1/keys", "keys")
Reader = Annotated[Caller, Requires(Permission.KEYS_READ)]
Writer = Annotated[Caller, Requires(Permission.KEYS_WRITE)]
VersionPath = Annotated[str, Path(pattern=VERSION_PATTERN)]
# A provider may be slow, and is asked again.
_PATIENT_S = 60.0


@router.get("")
async def list_keys(caller: Reader, session: Session) -> Page[KekView]:
    """List every KEK there ever was; they are few."""
    return Page(items=await kek_views(session, await list_keks(session)), next_cursor=None)


@router.post("", status_code=201)
@limits(timeout_s=_PATIENT_S)
async def add_key(
    caller: Writer, context: Context, session: Session, body: KekAdd, now: Now
) -> KekDetail:
    """Put a fleet's DEKs under a key of the customer's; it is tried out first."""
    reference = KekReference.parse(body.reference)
    kek = await kek_changes.add_fleet_kek(
        session, context.kek, body.fleet, reference, by=caller.actor, now=now
    )
    return await kek_view(session, kek)


@router.get("/providers")
async def list_providers(caller: Reader) -> Page[ProviderView]:
    """List the kinds of key providers, what their keys are called, and whether they can be used."""
    items = [ProviderView.model_validate(one) for one in find_providers()]
    return Page(items=items, next_cursor=None)


@router.post("/migrate", status_code=202)
@limits(timeout_s=_PATIENT_S)
async def migrate_keys(
    caller: Writer, context: Context, session: Session, body: Migrate, now: Now
) -> RewrapJobView:
    """Move everything of the platform to another key, of any provider; a job does it."""
    reference = KekReference.parse(body.reference)
    kek = await kek_changes.take_over(session, context.kek, reference, by=caller.actor, now=now)
    job = await rewrap_jobs.start_rewrap(
        session, kek, kind="migrate", per_second=body.per_second, by=caller.actor, now=now
    )
    return await job_view(session, job, kek)


@router.get("/{kek_id}")
async def get_key(caller: Reader, session: Session, kek_id: UUID) -> KekDetail:
    """Return one KEK with its versions."""
    return await kek_view(session, await get_kek(session, kek_id))


@router.post("/{kek_id}/check")
@limits(timeout_s=_PATIENT_S)
async def check_key(
    caller: Writer, context: Context, session: Session, kek_id: UUID, now: Now
) -> KekDetail:
    """Find out whether the KEK can be used, now instead of within a minute; trouble is stored."""
    await check_kek(session, context.kek, kek_id, now=now)
    return await kek_view(session, await get_kek(session, kek_id))


@router.post("/{kek_id}/rotate")
@limits(timeout_s=_PATIENT_S)
async def rotate_key(
    caller: Writer, context: Context, session: Session, kek_id: UUID, now: Now
) -> KekDetail:
    """Make a new version, which new wraps use; what there is stays until it is rewrapped."""
    kek = await kek_changes.rotate_kek(session, context.kek, kek_id, by=caller.actor, now=now)
    return await kek_view(session, kek)


@router.post("/{kek_id}/rewrap", status_code=202)
async def rewrap_key(
    caller: Writer, session: Session, kek_id: UUID, body: Rewrap, now: Now
) -> RewrapJobView:
    """Move every secret under the KEK's present version; a job does it."""
    kek = await kek_changes.get_usable_kek(session, kek_id)
    job = await rewrap_jobs.start_rewrap(
        session, kek, per_second=body.per_second, by=caller.actor, now=now
    )
    return await job_view(session, job, kek)


@router.post("/{kek_id}/import-parameters")
@limits(timeout_s=_PATIENT_S, replayable=False)
async def get_import_parameters(
    caller: Writer, context: Context, session: Session, kek_id: UUID
) -> ImportParametersView:
    """Return what key material has to be wrapped with, offline, within a day."""
    found = await kek_changes.get_import_parameters(session, context.kek, kek_id)
    return ImportParametersView.model_validate(found)


@router.post("/{kek_id}/import")
@limits(timeout_s=_PATIENT_S)
async def import_key(
    caller: Writer,
    context: Context,
    session: Session,
    kek_id: UUID,
    body: ImportMaterial,
    now: Now,
) -> KekDetail:
    """Import wrapped key material as the version that wraps what is new."""
    kek = await kek_changes.import_material(
        session,
        context.kek,
        kek_id,
        body.wrapped,
        token=body.token,
        expires_at=body.expires_at and body.expires_at.astimezone(UTC),
        by=caller.actor,
        now=now,
    )
    await check_kek(session, context.kek, kek_id, now=now)
    return await kek_view(session, await get_kek(session, kek.id))


@router.post("/{kek_id}/versions/{version}/disable")
@limits(timeout_s=_PATIENT_S)
async def disable_version(
    caller: Writer,
    context: Context,
    session: Session,
    kek_id: UUID,
    version: VersionPath,
    now: Now,
) -> KekDetail:
    """Disable a version that no secret is under any more."""
    kek = await kek_changes.set_version_enabled(
        session, context.kek, kek_id, version, enabled=False, by=caller.actor, now=now
    )
    return await kek_view(session, kek)


@router.post("/{kek_id}/versions/{version}/enable")
@limits(timeout_s=_PATIENT_S)
async def enable_version(
    caller: Writer,
    context: Context,
    session: Session,
    kek_id: UUID,
    version: VersionPath,
    now: Now,
) -> KekDetail:
    """Enable a disabled version."""
    kek = await kek_changes.set_version_enabled(
        session, context.kek, kek_id, version, enabled=True, by=caller.actor, now=now
    )
    return await kek_view(session, kek)


@router.post("/{kek_id}/versions/{version}/destroy", status_code=202)
async def destroy_version(
    caller: Writer,
    session: Session,
    kek_id: UUID,
    version: VersionPath,
    body: DestroyVersion,
    now: Now,
) -> ApprovalView:
    """Ask for a version to be destroyed, for good; a second person has to approve it."""
    kek = await kek_changes.get_usable_kek(session, kek_id)
    check_destroys_versions(kek.provider)
    await kek_changes.check_version_unused(session, kek, version)
    request = {"kek_id": str(kek_id), "version": version, "reason": body.reason}
    approval = await approvals.ask(
        session, ApprovalKind.DESTROY_KEY, request, fleet=kek.fleet, by=caller, now=now
    )
    return await approval_view(session, approval, caller, now=now)


@router.delete("/{kek_id}")
async def remove_key(caller: Writer, session: Session, kek_id: UUID, now: Now) -> KekDetail:
    """Put a fleet's DEKs under the platform's KEK alone again; the key itself is not touched."""
    kek = await kek_changes.remove_fleet_kek(session, kek_id, by=caller.actor, now=now)
    return await kek_view(session, kek)
