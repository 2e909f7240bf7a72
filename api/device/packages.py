"""`/device/v1/packages`: the bytes of a package, for the agent that the link was made for."""

from typing import Annotated
from uuid import UUID

import structlog
from fastapi import Path, Query, Request, Response
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from api.access import PUBLIC
from api.downloads import Downloads
from api.problems import problem_response
from api.routing import Context, Now, Session, new_router
from tensorguard.services.deployments.downloads import Download, admit_download
from tensorguard.services.deployments.release_errors import PackageFileMissing, TooManyDownloads
from tensorguard.store.package_store import Link

log = structlog.get_logger()

MEDIA_TYPE = "application/vnd.tensorguard.tgsp"
router = new_router("/device/v1/packages", "device")
DigestPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


class PackageResponse(FileResponse):
    """A package file, whole or in ranges (RFC 9110 section 14); counted while it runs.

    The ETag is the SHA-256 of the file, which never changes: a resumed download can only
    continue the same bytes.
    """

    def __init__(self, path: str, download: Download, downloads: Downloads) -> None:
        etag = f'"{download.file_sha256.hex()}"'
        super().__init__(path, media_type=MEDIA_TYPE, headers={"etag": etag})
        self._download = download
        self._downloads = downloads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._downloads.one(self._download.fleet):
                await super().__call__(scope, receive, send)
        except TooManyDownloads as error:
            await problem_response(error)(scope, receive, send)


@router.api_route(
    "/{digest}", methods=["GET", "HEAD"], dependencies=[PUBLIC], response_class=Response
)
async def download_package(
    request: Request,
    context: Context,
    session: Session,
    now: Now,
    digest: DigestPath,
    agent: Annotated[UUID, Query()],
    exp: Annotated[int, Query(ge=0, lt=2**53)],
    sig: Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{43}$")],
) -> Response:
    """Return the package, or send to the store that has it; ranges, If-Range and HEAD work as
    RFC 9110 says."""
    download = await admit_download(
        session,
        context.keyring.url_key,
        digest=bytes.fromhex(digest),
        agent_id=agent,
        exp=exp,
        sig=sig,
        now=now,
    )
    found = await context.package_store.find(download.store_key, head=request.method == "HEAD")
    if found is None:
        log.error("package_file_missing", package=digest)
        raise PackageFileMissing(f"the file of package {digest} is gone")
    if isinstance(found, Link):
        # Good for a minute, and asked for again at each resumption: so is the deny set.
        return Response(status_code=307, headers={"Location": found.url})
    return PackageResponse(str(found), download, context.downloads)
