"""`/api/v1/packages`: upload, list, facts, and the key that packages are built for."""

from datetime import datetime
from typing import Annotated, Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import Path, Query, Request, Response
from starlette.requests import ClientDisconnect

from api.access import Requires
from api.errors import UnsupportedMediaType
from api.limits import limits
from api.packages.views import PackageDetail, PackageView, package_detail, package_view
from api.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, page_of
from api.routing import Context, Session, new_router
from tensorguard.services.deployments import packages
from tensorguard.services.deployments.upload_at_once import upload_at_once
from tensorguard.services.people.access import Caller, Permission
from tensorguard.store.packages import list_packages as list_package_rows

router = new_router("/api/v1/packages", "packages")
Reader = Annotated[Caller, Requires(Permission.PACKAGES_READ)]
Writer = Annotated[Caller, Requires(Permission.PACKAGES_WRITE)]
DigestPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
MEDIA_TYPES = frozenset({"application/vnd.tensorguard.tgsp", "application/octet-stream"})
# nginx's word for a client that has gone: nobody reads the answer, but the log has it.
CLIENT_GONE = 499
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            name: {"schema": {"type": "string", "format": "binary"}} for name in sorted(MEDIA_TYPES)
        },
    }
}


@router.put("", status_code=201, response_model=PackageDetail, openapi_extra=_BODY)
@router.post("", status_code=201, response_model=PackageDetail, openapi_extra=_BODY)
@limits(max_body_bytes=2**40, timeout_s=3600, streamed=True)
async def upload_package(
    caller: Writer,
    request: Request,
    response: Response,
    context: Context,
) -> PackageDetail | Response:
    """Store a package: the body is the .tgsp file. 201, or 200 if it is here already.

    It is verified first; nobody sees it before, and nothing of a refused or cut one stays.
    `packages/uploads` takes packages that are too large for one request.
    """
    try:
        uploaded = await upload_at_once(
            context.receiver,
            context.verifier,
            request.stream(),
            length_bytes=_announced_bytes(request),
            by=caller.actor,
        )
    except ClientDisconnect:
        return Response(status_code=CLIENT_GONE)
    response.status_code = 201 if uploaded.created else 200
    response.headers["Location"] = f"/api/v1/packages/{uploaded.package.digest.hex()}"
    return package_detail(uploaded.package)


@router.get("")
async def list_packages(
    caller: Reader,
    session: Session,
    name: Annotated[str | None, Query(max_length=64, pattern=r"^[a-z0-9._-]+$")] = None,
    publisher: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[PackageView]:
    """List packages, the newest upload first; `publisher` is the key id of one."""
    after = decode_cursor(cursor, _parse_place)
    rows = await list_package_rows(
        session, name=name, publisher=publisher, after=after, limit=limit + 1
    )
    return page_of(
        rows,
        limit,
        view=package_view,
        key=lambda package: (package.uploaded_at.isoformat(), package.digest.hex()),
    )


@router.get("/recipient-key", response_class=Response)
async def get_recipient_key(caller: Reader, context: Context) -> Response:
    """Return the public key (PEM) that `tensorguard tgsp build --recipient` needs."""
    public = context.keyring.recipient_key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Response(pem, media_type="application/x-pem-file")


@router.get("/{digest}")
async def get_package(caller: Reader, session: Session, digest: DigestPath) -> PackageDetail:
    """Return a package, what its manifest says, and what was verified."""
    return package_detail(await packages.get_package(session, bytes.fromhex(digest)))


def _parse_place(values: list[Any]) -> tuple[datetime, bytes]:
    uploaded_at = datetime.fromisoformat(values[0])
    if uploaded_at.tzinfo is None:
        raise ValueError("not an aware time")
    return uploaded_at, bytes.fromhex(values[1])


def _announced_bytes(request: Request) -> int | None:
    """Return how long the body says it is; only package files are read.

    Raises: UnsupportedMediaType.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise UnsupportedMediaType(
            f"this route does not read {media_type[:100] or 'that'!r}",
            hint="Send the file itself, with 'Content-Type: application/vnd.tensorguard.tgsp'.",
        )
    announced = request.headers.get("content-length")
    return None if announced is None else int(announced)
