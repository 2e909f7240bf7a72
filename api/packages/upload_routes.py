"""`/api/v1/packages/uploads`: a package sent in as many requests as it takes (tus 1.0.0)."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Request, Response
from starlette.requests import ClientDisconnect

from api.access import Requires
from api.errors import UnsupportedMediaType
from api.limits import limits
from api.packages import tus
from api.packages.routes import CLIENT_GONE
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import PROBLEM, Context, Now, Session
from api.views import View
from tensorguard.services.deployments import uploads
from tensorguard.services.deployments.uploads import Upload
from tensorguard.services.people.access import Caller, Permission

router = APIRouter(
    prefix="/api/v1/packages/uploads",
    tags=["packages"],
    route_class=tus.TusRoute,
    responses={"default": PROBLEM},
)
Writer = Annotated[Caller, Requires(Permission.PACKAGES_WRITE)]
SPOKEN = Depends(tus.require_version)
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {tus.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


class RefusalView(View):
    """Why an upload was refused, or what its verification waits for."""

    code: str
    detail: str
    hint: str


class UploadView(View):
    """An upload of the caller: how far it is, and what became of it."""

    id: UUID
    state: Literal["receiving", "verifying", "done", "refused"]
    filename: str | None
    length_bytes: int | None
    verified_bytes: int
    package_digest: str | None
    problem: RefusalView | None
    created_at: datetime
    expires_at: datetime


@router.options("", status_code=204)
async def describe_uploads(caller: Writer, context: Context) -> Response:
    """Say what of tus is spoken here, and how large a package may be."""
    headers = {
        "Tus-Version": tus.VERSION,
        "Tus-Extension": tus.EXTENSIONS,
        "Tus-Max-Size": str(context.receiver.limit_bytes),
        "Tus-Checksum-Algorithm": "sha256",
    }
    return Response(status_code=204, headers=headers)


@router.post("", status_code=201, response_class=Response, dependencies=[SPOKEN])
async def begin_upload(
    caller: Writer,
    context: Context,
    upload_length: Annotated[int, Header(ge=0, lt=2**53)],
    upload_metadata: Annotated[str, Header(max_length=tus.MAX_METADATA_LENGTH)] = "",
) -> Response:
    """Open an upload of Upload-Length bytes; the Location is where they are sent.

    It stays open for a day after the last byte came, and is deleted by DELETE.
    """
    upload = await context.receiver.begin(
        length_bytes=upload_length,
        metadata=tus.check_metadata(upload_metadata),
        by=caller.actor,
    )
    headers = tus.upload_headers(upload) | {"Location": f"{router.prefix}/{upload.id}"}
    return Response(status_code=201, headers=headers)


@router.get("")
async def list_uploads(
    caller: Writer,
    session: Session,
    now: Now,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[UploadView]:
    """List the caller's uploads that are open, or ended within the last day, newest first."""
    after = decode_cursor(cursor, lambda values: UUID(values[0]))
    rows = await uploads.list_uploads(
        session, by=caller.actor, after=after, limit=limit + 1, now=now
    )
    return page_of(rows, limit, view=upload_view, key=lambda upload: (str(upload.id),))


@router.get("/{upload_id}")
async def get_upload(caller: Writer, context: Context, upload_id: UUID) -> UploadView:
    """Return how an upload stands; once it is `done`, `package_digest` is its package."""
    return upload_view(await context.receiver.get(upload_id, by=caller.actor))


@router.head("/{upload_id}", response_class=Response, dependencies=[SPOKEN])
async def find_offset(caller: Writer, context: Context, upload_id: UUID) -> Response:
    """Say by Upload-Offset where the next byte belongs."""
    upload = await context.receiver.get(upload_id, by=caller.actor)
    headers = tus.upload_headers(upload, await context.receiver.offset(upload))
    if upload.length_bytes is not None:  # None: it comes in one request of its own
        headers["Upload-Length"] = str(upload.length_bytes)
    if upload.metadata:
        headers["Upload-Metadata"] = upload.metadata
    return Response(headers=headers)


@router.patch("/{upload_id}", status_code=204, dependencies=[SPOKEN], openapi_extra=_BODY)
@limits(max_body_bytes=2**40, timeout_s=3600, streamed=True)
async def append_to_upload(
    caller: Writer,
    request: Request,
    context: Context,
    upload_id: UUID,
    upload_offset: Annotated[int, Header(ge=0, lt=2**53)],
    upload_checksum: Annotated[str | None, Header(max_length=100)] = None,
) -> Response:
    """Add the body's bytes, which begin at Upload-Offset.

    What came of a request that was cut is kept, as far as the store could: HEAD says how far. With
    Upload-Checksum the body may have 8 MiB, and is kept whole or not at all. After the last byte
    the package is verified: GET says what became of it.
    """
    media_type = request.headers.get("content-type", "")
    if media_type != tus.MEDIA_TYPE:
        raise UnsupportedMediaType(
            f"this route does not read {media_type[:100] or 'that'!r}",
            hint=f"Send 'Content-Type: {tus.MEDIA_TYPE}'.",
        )
    announced = request.headers.get("content-length")
    try:
        upload, offset = await context.receiver.append(
            upload_id,
            request.stream(),
            offset=upload_offset,
            announced_bytes=None if announced is None else int(announced),
            sha256=tus.parse_checksum(upload_checksum),
            by=caller.actor,
        )
    except ClientDisconnect:
        return Response(status_code=CLIENT_GONE)
    return Response(status_code=204, headers=tus.upload_headers(upload, offset))


@router.delete("/{upload_id}", status_code=204, dependencies=[SPOKEN])
async def delete_upload(caller: Writer, context: Context, upload_id: UUID) -> Response:
    """Delete an upload and what came of it; a package that it has become stays."""
    await context.receiver.drop(upload_id, by=caller.actor)
    return Response(status_code=204)


def upload_view(upload: Upload) -> UploadView:
    """Return an upload as its owner sees it."""
    problem = None
    if upload.code is not None:
        problem = RefusalView(code=upload.code, detail=upload.message or "", hint=upload.hint or "")
    digest = upload.package_digest
    return UploadView(
        id=upload.id,
        state=upload.state,
        filename=tus.read_metadata(upload.metadata).get("filename"),
        length_bytes=upload.length_bytes,
        verified_bytes=upload.verified_bytes,
        package_digest=None if digest is None else digest.hex(),
        problem=problem,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
    )
